//! One run: scan, compare, ship, apply, verify, mark.
