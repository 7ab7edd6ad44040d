"""The roles of the knowledge road, each a typed function, and who fills them.

    rewrite   conversation -> what to search for                       `rewriting`
    grade     question, chunks -> probability that each answers it     `grading`
    answer    question, sources -> sentences, or what is not stated    `Nodes.answer`, `quoting`
    reflect   sentences, sources -> supported, contradicted, or not stated   `reflecting`
    repair    contradicted sentences, sources -> sentences             `repairing`

A rule fills each at no cost; so does a model, the expert's or the frontier's, through a prompt. The
settings say who is asked, in which order (`orchestration.roles`). The graph does not know who
answered: `Role` tries one after the other, and says so where the first could not.
"""
