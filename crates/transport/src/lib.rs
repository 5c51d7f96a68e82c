//! Links that carry frames between two ends: QUIC, a remote shell's pipe, memory.
