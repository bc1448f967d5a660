//! The benchmark as a program.

mod smoke;
