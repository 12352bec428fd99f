//! The fake Vega node of the tests; what it is is appended to its executable, what it does is in its home.

fn main() -> std::process::ExitCode {
    omnivisor_testkit::fake_vega::main()
}
