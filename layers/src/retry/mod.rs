//! Asks again, as long as the client has not seen a byte.
