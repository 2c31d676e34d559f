//! The choice of a backend for each request.
