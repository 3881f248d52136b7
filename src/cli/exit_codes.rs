//! What the process ends with.

/// An exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExitCode {
    /// All is well.
    Success,
    /// It failed, and a sentence on stderr says why.
    Failed,
    /// It was called in a way that makes no sense.
    Usage,
    /// It ended with something that is not on the server.
    Pending,
}

impl From<ExitCode> for i32 {
    fn from(code: ExitCode) -> Self {
        match code {
            ExitCode::Success => 0,
            ExitCode::Failed => 1,
            ExitCode::Usage => 2,
            ExitCode::Pending => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_that_are_promised() {
        let codes = [ExitCode::Success, ExitCode::Failed, ExitCode::Usage, ExitCode::Pending];
        assert_eq!(codes.map(i32::from), [0, 1, 2, 3]);
    }
}
