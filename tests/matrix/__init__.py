"""Who may do what, asked of every route: each method, by everybody, on everything.

`table.py` says what is to be expected, written from the specification and from nothing in the code.
`walk.py` finds the routes that there are; one that the table does not know fails, and so does a row
without a route. `mutants.py` takes away one guard after the other and asks whether anybody notices.

    python -m tests.matrix            every cell, not only those of the quick suite
    python -m tests.matrix mutations  the proof by mutation, with a report
    python -m tests.matrix schema     requests made up from the API's schema, as everybody
"""
