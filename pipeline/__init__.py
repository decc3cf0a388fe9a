"""captionmill's data path, in the data's order.

`types` the nouns, `errors` the vocabulary of what can go wrong, `config` (with `values` and `conversation`) the job
file, `recipe` what decides a caption, `schema` typed rows to Arrow and back, `messages` what travels between stages,
`columns` what is published, `storage` (with `retry`, `store_errors`, `streams` and `local`) bytes in and out, `shards`
(with `patterns`) what the input is, `index` one row per asset (`tar` and `archives`, `tables`, `folders` by kind of
shard; `row_groups` and `pages` a Parquet file in bounded pieces; `naming` and `draft` the rules that they share),
`units` and `plan` the work, `read` a unit's bytes, `image` (with `containers`) and `video` (with `demux`) decoded
pixels, `anyres` (with `families`) crops and visual tokens, `prompt` what is asked, `batching` which requests run
together, `footprint` and `fit` what a checkpoint takes and what memory holds, `quality` and `provenance` how a row
came to be, `commit` one part per unit, `publish` what consumers read, `verify` whether it holds what it promises
(`record` what an output says of itself, `readback` published files again, `own_facts`, `conservation` and `departed`
the rows, `remake` input and model once more, `findings` the words), `flow` the whole as Ray Data expressions.

The package knows nothing of torch, of transformers, of the command line and of the process environment.
"""
