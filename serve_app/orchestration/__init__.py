"""The glue: a state graph from question to answer."""
