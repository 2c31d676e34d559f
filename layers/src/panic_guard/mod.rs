//! A panic fails one request, not the process.
