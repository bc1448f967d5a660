//! The program as its users start it, against servers that misbehave on demand and against real ones.
