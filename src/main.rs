//! Hands over to [`containerfs::cli`].

fn main() {
    containerfs::private::keep_out_of_dumps();
    // Tests name steps at which the process dies; see `journal::steps`. Without their feature this does
    // nothing.
    let _failpoints = fail::FailScenario::setup();
    std::process::exit(containerfs::cli::main());
}
