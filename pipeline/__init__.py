"""captionmill's data path, in the data's order.

`types` the nouns, `errors` the vocabulary of what can go wrong, `config` (with `values`, `conversation` and `toml`) the
job file, `recipe` what decides a caption, `schema` typed rows to Arrow and back, `messages` what travels between
stages, `columns` what is published, `storage` (with `retry`, `store_errors`, `streams` and `local`) bytes in and out,
`traffic` how many, `shards` (with `patterns`) what the input is, `index` one row per asset (`tar` and `archives`,
`tables`, `folders` by kind of shard; `row_groups` and `pages` a Parquet file in bounded pieces; `parquet` one that is
held whole; `naming` and `draft` the rules that they share), `units` and `plan` the work, `forecast` what it would take,
`read` a unit's bytes, `image` (with `containers`) and `video` (with `demux`) decoded pixels, `anyres` (with
`families` and `resample`) crops and visual tokens, `prompt` what is asked, `batching` which requests run together,
`footprint` and `fit` what a checkpoint takes and what memory holds, `quality`
and `provenance` how a row came to be, `commit` one part per unit, `unit_records` what each took, `under_way` how far
runs are, `publish` what consumers read, `delta` what an index must change to be in step, `verify` whether it holds what
it promises (`record` what an output says of itself, `readback` published files again, `own_facts`, `conservation` and
`departed` the rows, `verify_one` those of one asset, `remake` input and model once more, `findings` the words),
`placement` which node does what, `flow` the whole as Ray Data expressions. After what is published (`before`),
`standing` says which rows stay, `todo` what is to do, `copies` which assets are the same, `planner` makes the plan of
it (`pricing`, `papers`), and `carry` takes the rows over. For people who look: `lookup` finds an asset, `tally`,
`timeline`, `identical`, `gallery` and `failures` are what the report tells.

The package knows nothing of torch, of transformers, of the command line and of the process environment.
"""
