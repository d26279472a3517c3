"""A remote cell on the notebook's side: read, sent, followed, and what its names become.

`text` and `analysis` say what a cell is and reads; `sending` and `values` bring it to a worker;
`run` is its handle; `arriving` says what the notebook's names become. It imports `worker` (what is
sent runs there) and `pictures`, and knows neither magics nor commands.
"""
