//! Errors become answers, broken streams get their error frame.
