//! Sockets and their clocks: what stands between a client and the stack.
