//! Benchmarks live in `benches/`; this library is empty because cargo wants one.
