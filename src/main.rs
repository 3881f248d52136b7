//! Hands over to [`containerfs::cli`].

fn main() {
    std::process::exit(containerfs::cli::main());
}
