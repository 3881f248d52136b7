//! The binary: hands over to [`containerfs::cli`].

fn main() -> std::process::ExitCode {
    containerfs::cli::main()
}
