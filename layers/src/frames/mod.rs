//! Lines and events in a stream, watched without being copied or cut anew.
