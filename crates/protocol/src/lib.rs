//! Messages, their bounded codec, and the source and target sessions as state machines; no I/O, no clock.
