//! A hard cap on requests in flight, held to the end of the answer.
