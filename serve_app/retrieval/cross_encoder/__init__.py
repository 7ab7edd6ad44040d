"""A small model that reads two texts together: does a passage answer a question, and where; does it
support a claim, contradict it, or not state it?

One pass over the pair, three heads (`network`). It is trained by `trivium train cross-encoder`
(`training`), made int8 at set-up (`export`) and read by ONNX Runtime on a CPU (`model`).
"""
