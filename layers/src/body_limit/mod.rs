//! Request bodies, read whole within a limit and out of one memory budget.
