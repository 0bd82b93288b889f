"""The cost of ingest: the platform's listener beside other ways to do the same, with every row verified.

Everything is measured in one run, in rounds that take each part in turn, and compared as ratios: absolute figures
belong to a machine and its neighbours. `run` holds the order, `goals` the required ratios.

The load is made before the clock starts: messages signed as devices sign them, packed as whole PUBLISH packets, in
a file. A process of its own (`publisher`) only writes them to a socket. The clock runs from the first of them until
the last row is committed; what a process costs is the difference of its processor time in /proc.
"""
