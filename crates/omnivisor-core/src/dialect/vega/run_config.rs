//! What one release of Vega runs: `run-config.toml`, one in each release's folder.
//!
//! Reading or writing it is not done here, nor looking whether the executables are there.

mod release;

use std::path::{Path, PathBuf};

use super::arguments::{HOME, value_of};
use super::tables::Document;
pub use super::tables::{ConfigError, Warning};

/// What the file is called.
pub const FILE_NAME: &str = "run-config.toml";

const NAME: &str = "name";
const VEGA_PATH: &str = "vega.binary.path";
const VEGA_ARGS: &str = "vega.binary.args";
const SOCKET_PATH: &str = "vega.rpc.socketPath";
const HTTP_PATH: &str = "vega.rpc.httpPath";
const DATA_NODE: &str = "data_node";
const DATA_NODE_PATH: &str = "data_node.binary.path";
const DATA_NODE_ARGS: &str = "data_node.binary.args";

const KNOWN: [&str; 7] = [NAME, VEGA_PATH, VEGA_ARGS, SOCKET_PATH, HTTP_PATH, DATA_NODE_PATH, DATA_NODE_ARGS];

/// What stands for the arguments in Vega Visor's template.
const PEER_ARGUMENTS: [&str; 3] = ["arg1", "arg2", "..."];
/// What stands for a data node's executable there. It is no file's name.
const PEER_DATA_NODE: &str = "vega data-node";
/// What stands for the homes in our own template.
const VEGA_HOME: &str = "<home of vega>";
const TENDERMINT_HOME: &str = "<home of cometbft>";

/// What a release runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunConfig {
    /// What the release is called, for people; may be empty.
    pub name: String,
    /// Core.
    pub vega: Binary,
    /// How core is asked.
    pub rpc: Rpc,
    /// The data node, if there is one.
    pub data_node: Option<Binary>,
}

/// A program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    /// Its executable; a relative path is meant below the release's folder.
    pub path: PathBuf,
    /// Its arguments, passed one to one: no shell, no variables.
    pub args: Vec<String>,
}

impl Binary {
    /// Where the executable is, if the release is in this folder.
    pub fn executable(&self, folder: &Path) -> PathBuf {
        folder.join(&self.path)
    }
}

/// How core is asked. What is left out or empty is as in core's own configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rpc {
    /// Its admin socket.
    pub socket_path: Option<PathBuf>,
    /// The HTTP path there.
    pub http_path: Option<String>,
}

impl RunConfig {
    /// Reads the file.
    pub fn parse(text: &str) -> Result<(Self, Vec<Warning>), ConfigError> {
        let document = Document::parse(FILE_NAME, text)?;
        let config = Self {
            name: document.text(NAME)?.unwrap_or_default(),
            vega: binary(&document, VEGA_PATH, VEGA_ARGS)?,
            rpc: Rpc {
                socket_path: not_empty(document.text(SOCKET_PATH)?).map(PathBuf::from),
                http_path: not_empty(document.text(HTTP_PATH)?),
            },
            data_node: match document.has_table(DATA_NODE)? {
                true => Some(binary(&document, DATA_NODE_PATH, DATA_NODE_ARGS)?),
                false => None,
            },
        };
        let mut warnings: Vec<Warning> =
            document.unknown(&KNOWN, &[]).iter().map(|unknown| unknown.misspelt(&KNOWN)).collect();
        for (key, binary) in config.binaries() {
            warnings.extend(odd_arguments(key, &binary.args));
        }
        Ok((config, warnings))
    }

    /// What is still to be filled in, if this is a template, ours or Vega Visor's: one sentence.
    pub fn unfilled(&self) -> Option<String> {
        let placeholder = |word: &&String| matches!(word.as_str(), VEGA_HOME | TENDERMINT_HOME);
        self.binaries().find_map(|(key, binary)| {
            if binary.path == Path::new(PEER_DATA_NODE) {
                return Some(format!(
                    "{FILE_NAME}: {DATA_NODE_PATH} = {PEER_DATA_NODE:?} is one file's name, and there is none called so: \
                     write \"vega\", and let {DATA_NODE_ARGS} begin with \"datanode\", \"start\""
                ));
            }
            let word = match binary.args.iter().find(placeholder) {
                Some(word) => word,
                None if binary.args == PEER_ARGUMENTS => PEER_ARGUMENTS[0],
                None => return None,
            };
            Some(format!("{FILE_NAME}: {key} still says {word:?}: nobody has written there what the node needs"))
        })
    }

    /// What `init` writes. Vega Visor's own template cannot be right as it stands: its arguments are `arg1`, `arg2` and
    /// `...`, and its data node's executable is called `vega data-node`, which is the one file's name `vega` and a word
    /// that today's vega does not know. So this one shows what a node is started with, and where something is missing;
    /// [`RunConfig::unfilled`] knows both.
    pub fn template(name: &str, with_data_node: bool) -> String {
        let mut text = format!(
            r#"# Put the folders in, or leave a flag out with its folder where the usual place is meant.
name = {name}

[vega]
  [vega.binary]
    path = "vega"
    args = ["start", "--home", "{VEGA_HOME}", "--tendermint-home", "{TENDERMINT_HOME}"]
  [vega.rpc]
    socketPath = ""
    httpPath = ""
"#,
            name = toml_edit::Value::from(name)
        );
        if with_data_node {
            text.push_str(&format!(
                r#"
[data_node]
  [data_node.binary]
    path = "vega"
    args = ["datanode", "start", "--home", "{VEGA_HOME}"]
"#
            ));
        }
        text
    }

    /// Core and the data node, each with the key of its arguments.
    fn binaries(&self) -> impl Iterator<Item = (&'static str, &Binary)> {
        let data_node = self.data_node.as_ref().map(|binary| (DATA_NODE_ARGS, binary));
        [(VEGA_ARGS, &self.vega)].into_iter().chain(data_node)
    }
}

fn binary(document: &Document<'_>, path: &'static str, args: &str) -> Result<Binary, ConfigError> {
    const RIGHT: &str = "the executable, such as \"vega\"";
    let missing = ConfigError::Missing { file: FILE_NAME, key: path, right: RIGHT };
    let file = not_empty(document.text(path)?).ok_or(missing)?;
    if file.contains('\0') {
        return Err(document.wrong_at(path, "it contains a zero byte", RIGHT));
    }
    let arguments = document.list(args)?.unwrap_or_default();
    if arguments.iter().any(|word| word.contains('\0')) {
        return Err(document.wrong_at(args, "it contains a zero byte", "a list of words"));
    }
    Ok(Binary { path: PathBuf::from(file), args: arguments })
}

fn not_empty(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// Arguments that a shell would have made something else of.
fn odd_arguments(key: &str, args: &[String]) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for word in args {
        let flag = word.split('=').next().unwrap_or_default();
        let glued = word.contains(" --") || (flag.starts_with("--") && flag.contains(char::is_whitespace));
        if glued && !args.iter().any(|word| word == "--") {
            let word = super::excerpt(word);
            warnings.push(Warning(format!(
                "{FILE_NAME}: {key}: \"{word}\" is passed as one word, as it stands: each argument needs quotes of its own"
            )));
        }
    }
    if let Some(home) = value_of(args, HOME).filter(|home| home.starts_with(['$', '~'])) {
        let home = super::excerpt(&home);
        warnings.push(Warning(format!(
            "{FILE_NAME}: {key}: {HOME} is \"{home}\" as it stands: variables are not replaced, write the path itself"
        )));
    }
    warnings
}
