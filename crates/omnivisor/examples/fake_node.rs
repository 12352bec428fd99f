//! The fake node of the tests; what it does is appended to its executable.

fn main() -> std::process::ExitCode {
    omnivisor_testkit::fake_node::main()
}
