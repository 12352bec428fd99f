# Everything that is done with this repository. Each recipe is a command that can be typed as well.

# List the recipes.
default:
    @just --list

# Run every test: the core, the formats, and the real binary from outside.
test:
    cargo test --workspace

# Everything that has to be green: format, lints, tests, planted bugs, dependencies.
ci:
    .ci/run

# Format all sources.
fmt:
    cargo fmt --all

# Lint all sources; a warning is an error.
lint:
    cargo clippy --workspace --all-targets -- -D warnings

# Measure upgrades and a quiet night on the released binary.
bench:
    cargo build --release -p omnivisor --examples
    cargo bench -p omnivisor --bench main_job --bench vega_upgrade

# Measure the outage over sizes and shapes of homes, and what a copy costs a running node; writes docs/outage.md and its plot.
# `OMNIVISOR_BENCH=short` is a quick look that writes nothing.
bench-outage:
    cargo build --release -p omnivisor --examples
    cargo bench -p omnivisor --bench outage

# Plant bugs in a copy of the core, one at a time, and see that a test fails for each.
planted *name:
    cargo run -p omnivisor-testkit --bin plant-bugs -- {{name}}

# Crash the supervisor at every pair of points instead of every seventh: some minutes.
long:
    OMNIVISOR_LONG=1 cargo test -p omnivisor-core --test crash_points -- --nocapture

# Kill the real binary at every point of an upgrade and an undo, fail every call there, and cut the power: some minutes for
# each dialect. Then the same with simulated disks, and again while that is recovered from.
crash:
    cargo build -p omnivisor --examples
    OMNIVISOR_LONG=1 cargo test -p omnivisor --test it -- crash::nym crash::images::nym --nocapture --test-threads=2
    OMNIVISOR_LONG=1 cargo test -p omnivisor --test it -- crash::vega crash::images::vega --nocapture --test-threads=2
    OMNIVISOR_LONG=1 cargo test -p omnivisor --test it -- power_cut:: --nocapture --test-threads=1

# Disturb upgrades at random, for some minutes; the same seed gives the same faults.
soak faults="500" seed="1":
    cargo build -p omnivisor --examples
    OMNIVISOR_SOAK={{faults}} OMNIVISOR_SEED={{seed}} cargo test -p omnivisor --test it soak:: -- --nocapture
