//! Requests in a time, for everybody and for each key.
