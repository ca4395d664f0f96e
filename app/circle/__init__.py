"""`modernbert circle`: a reranker and a retriever teach each other, in stages that are done once.

`stages` keeps what is done, `workshop` has the stages that both recipes are made of, `distil` and `trans_encoder` are
the recipes, `report` tells what came out.
"""
