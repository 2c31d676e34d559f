"""What the suites of faults and of hostile input share: a table of results, bytes on sockets, backends."""
