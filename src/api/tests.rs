//! The client against the emulator and against servers that misbehave.
