//! Clocks for streams: first byte, idle, total.
