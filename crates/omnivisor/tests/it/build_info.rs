//! Our reading of build information is that of the crate with which Nym's binaries write it.

use nym_bin_common::build_information::{BinaryBuildInformation, BinaryBuildInformationOwned};
use omnivisor_core::dialect::nym::build_info::BuildInfo;

fn theirs(text: &str) -> BinaryBuildInformationOwned {
    let real = BinaryBuildInformation::new("nym-node", "1.2.3").to_owned();
    BinaryBuildInformationOwned { commit_branch: text.to_owned(), ..real }
}

fn odd_texts() -> Vec<String> {
    let long = "x".repeat(10_000);
    ["develop", "", " ", "a \"quoted\" \\ one", "größer 🦀", "a\nb\tc\u{1}\u{7f}\u{2028}", "</script>\u{0}", &long]
        .map(str::to_owned)
        .to_vec()
}

#[test]
fn what_their_binaries_print_is_read_and_written_alike() {
    for text in odd_texts() {
        let theirs = theirs(&text);
        let printed = serde_json::to_string(&theirs).unwrap();
        let ours = BuildInfo::parse(format!("{printed}\n").as_bytes()).unwrap();
        assert_eq!(ours.commit_branch, text);
        assert_eq!(ours.binary_name, "nym-node");
        assert_eq!(ours.build_version, "1.2.3");
        assert_eq!(ours.to_json_line(), printed, "byte for byte");
        assert_eq!(serde_json::to_string(&ours).unwrap(), printed, "as part of a file, too");
        // They print it with a newline after it, as we do.
        assert_eq!(ours.to_text(), theirs.to_string());
    }
}

#[test]
fn what_we_write_is_read_by_them() {
    for text in odd_texts() {
        let theirs = theirs(&text);
        let ours = BuildInfo::parse(serde_json::to_string(&theirs).unwrap().as_bytes()).unwrap();
        let ours = BuildInfo { cargo_triple: "x86_64-unknown-linux-gnu".to_owned(), commit_sha: text, ..ours };
        let read: BinaryBuildInformationOwned = serde_json::from_str(&ours.to_json_line()).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), ours.to_json_line());
        assert_eq!(read.commit_sha, ours.commit_sha);
        assert_eq!(read.cargo_triple, ours.cargo_triple);
        let pretty: BinaryBuildInformationOwned =
            serde_json::from_str(&serde_json::to_string_pretty(&ours).unwrap()).unwrap();
        assert_eq!(pretty, read);
    }
}

#[test]
fn what_is_no_build_information_to_them_is_none_to_us() {
    let whole = serde_json::to_value(theirs("develop")).unwrap();
    for key in whole.as_object().unwrap().keys() {
        for value in [None, Some(serde_json::Value::Null), Some(5.into())] {
            let mut spoiled = whole.clone();
            match value {
                None => spoiled.as_object_mut().unwrap().remove(key),
                Some(value) => spoiled.as_object_mut().unwrap().insert(key.clone(), value),
            };
            let text = spoiled.to_string();
            let theirs = serde_json::from_str::<BinaryBuildInformationOwned>(&text);
            let ours = BuildInfo::parse(text.as_bytes());
            assert_eq!(ours.is_ok(), theirs.is_ok(), "{text}");
            if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
                assert_eq!(ours.cargo_triple, theirs.cargo_triple, "{text}");
            }
        }
    }
    for text in ["", "{}", "[]", "null", "{\"binary_name\":\"x\"} {}"] {
        assert!(serde_json::from_str::<BinaryBuildInformationOwned>(text).is_err());
        assert!(BuildInfo::parse(text.as_bytes()).is_err(), "{text}");
    }
    let mut more = whole;
    more["new_key"] = "x".into();
    assert!(serde_json::from_value::<BinaryBuildInformationOwned>(more.clone()).is_ok());
    assert!(BuildInfo::parse(more.to_string().as_bytes()).is_ok());
}
