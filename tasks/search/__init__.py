"""Searching: BM25, exact and approximate vectors, a folder that keeps an index, fusion, hard negatives."""
