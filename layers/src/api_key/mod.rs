//! Who is asking: keys, shown in any of the usual ways.
