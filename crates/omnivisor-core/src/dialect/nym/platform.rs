//! The keys under which an announcement lists its builds: `<os>-<arch>`, or [`ANY`] for a build that fits everywhere.
//!
//! Which system this is has to be passed in; nothing here asks.

/// The key of a build that runs on every platform, taken where none is listed for this one.
pub const ANY: &str = "any";

/// The key for an operating system and a processor as Rust names them; `macos` is written `darwin`.
pub fn platform_key(os: &str, arch: &str) -> String {
    let os = if os == "macos" { "darwin" } else { os };
    format!("{os}-{arch}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_macos_is_renamed() {
        for (os, arch, key) in [
            ("linux", "x86_64", "linux-x86_64"),
            ("linux", "aarch64", "linux-aarch64"),
            ("linux", "arm", "linux-arm"),
            ("macos", "aarch64", "darwin-aarch64"),
            ("freebsd", "x86_64", "freebsd-x86_64"),
        ] {
            assert_eq!(platform_key(os, arch), key);
        }
    }
}
