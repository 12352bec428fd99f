//! What has to be known of the nodes' own configurations: where core can be asked, and where the data node's database is.
//!
//! A node takes a value from its arguments, else from its file, else the default; so does this. The files may hold
//! passwords and keys: no error shows one of their lines. Reading them is not done here.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::arguments::{core_home, data_node_home, has_flag, value_of};
use super::excerpt;
use super::run_config::Rpc;
use super::tables::{ConfigError, Document};

const CORE: &str = "core's config.toml";
const DATA_NODE: &str = "the data node's config.toml";

const TRUTH: &str = "`true` or `false`";
const PORT: &str = "a port number, up to 65535";
const TEXT: &str = "a text";

/// Where core's configuration is. `config` is the user's folder for configurations (`$XDG_CONFIG_HOME`).
pub fn core_config_file(arguments: &[String], config: &Path) -> PathBuf {
    config_folder(core_home(arguments), config).join("node/config.toml")
}

/// Where the data node's configuration is.
pub fn data_node_config_file(arguments: &[String], config: &Path) -> PathBuf {
    config_folder(data_node_home(arguments), config).join("data-node/config.toml")
}

fn config_folder(home: Option<PathBuf>, config: &Path) -> PathBuf {
    home.map_or_else(|| config.join("vega"), |home| home.join("config"))
}

/// What core is configured to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreConfig {
    /// Its admin socket.
    pub socket_path: PathBuf,
    /// The HTTP path there.
    pub http_path: String,
    /// Where it answers over HTTP, if it does: host and port, as they are to be asked.
    pub rest: Option<(String, u16)>,
}

impl CoreConfig {
    /// Reads the file, if there is one, and what the arguments say instead. `temporary` is the folder for temporary files
    /// (`$TMPDIR`, else `/tmp`).
    pub fn parse(text: Option<&str>, arguments: &[String], temporary: &Path) -> Result<Self, ConfigError> {
        let source = Source::open(CORE, text, arguments)?;
        let socket = source.text("Admin.Server.SocketPath", "--admin.server.socket-path")?;
        let http_path = source.text("Admin.Server.HTTPPath", "--admin.server.http-path")?;
        let enabled = source.boolean("API.REST.Enabled", "--api.rest.enabled")?.unwrap_or(true);
        let host = source.text("API.REST.IP", "--api.rest.ip")?.unwrap_or_default();
        let port = source.port("API.REST.Port", "--api.rest.port")?.unwrap_or(3003);
        Ok(Self {
            socket_path: socket.map_or_else(|| temporary.join("vega.sock"), PathBuf::from),
            http_path: http_path.unwrap_or_else(|| "/rpc".to_owned()),
            rest: enabled.then(|| (reachable(host), port)),
        })
    }

    /// The address of core's statistics, in which its height is.
    pub fn statistics_url(&self) -> Option<String> {
        let (host, port) = self.rest.as_ref()?;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        Some(format!("http://{host}:{port}/statistics"))
    }

    /// Where core is asked: what the release's `run-config.toml` says, and what it leaves open as core has it.
    pub fn endpoint(&self, rpc: &Rpc) -> (PathBuf, String) {
        let socket = rpc.socket_path.clone().unwrap_or_else(|| self.socket_path.clone());
        (socket, rooted(rpc.http_path.as_deref().unwrap_or(&self.http_path)))
    }
}

/// One sentence if a release's `run-config.toml` has core asked where core does not listen.
pub fn mismatch(rpc: &Rpc, core: &CoreConfig) -> Option<String> {
    let socket = rpc.socket_path.as_ref().filter(|asked| !asked.components().eq(core.socket_path.components()));
    let socket =
        socket.map(|asked| ("socketPath", asked.display().to_string(), core.socket_path.display().to_string()));
    let http_path = rpc.http_path.as_ref().filter(|asked| rooted(asked) != rooted(&core.http_path));
    let http_path = http_path.map(|asked| ("httpPath", asked.clone(), core.http_path.clone()));
    let differing: Vec<String> = socket
        .into_iter()
        .chain(http_path)
        .map(|(key, asked, listened)| format!("{key} is {asked:?}, where core has {listened:?}"))
        .collect();
    (!differing.is_empty()).then(|| {
        format!(
            "core cannot be asked for upgrades: in [vega.rpc] of run-config.toml {}; leave it empty there to take core's",
            differing.join(", and ")
        )
    })
}

/// An HTTP path as a client sends it.
fn rooted(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Where something is asked that listens at this address: one that stands for all of the machine's cannot be asked.
fn reachable(host: String) -> String {
    match host.parse() {
        Ok(IpAddr::V4(address)) if address.is_unspecified() => "127.0.0.1".to_owned(),
        Ok(IpAddr::V6(address)) if address.is_unspecified() => "::1".to_owned(),
        Err(_) if host.is_empty() => "127.0.0.1".to_owned(),
        _ => host,
    }
}

/// What the data node is configured to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataNodeConfig {
    /// Whether it starts a database of its own, below itself.
    pub embedded: bool,
    /// The database that it uses otherwise.
    pub database: Database,
}

/// Where a Postgres is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Database {
    /// At a port.
    Tcp {
        /// Its host.
        host: String,
        /// Its port.
        port: u16,
    },
    /// At this socket.
    Socket(PathBuf),
}

impl DataNodeConfig {
    /// Reads the file, if there is one, and what the arguments say instead.
    pub fn parse(text: Option<&str>, arguments: &[String]) -> Result<Self, ConfigError> {
        let source = Source::open(DATA_NODE, text, arguments)?;
        let embedded = source.boolean("SQLStore.UseEmbedded", "--sqlstore.use-embedded")?.unwrap_or(false);
        let host = source.text("SQLStore.ConnectionConfig.Host", "--sqlstore.ConnectionConfig.host")?;
        let host = host.unwrap_or_else(|| "localhost".to_owned());
        let port = source.port("SQLStore.ConnectionConfig.Port", "--sqlstore.ConnectionConfig.port")?.unwrap_or(5432);
        let folder = source.text("SQLStore.ConnectionConfig.SocketDir", "--sqlstore.ConnectionConfig.socket-dir")?;
        let folder = folder.unwrap_or_else(|| "/tmp".to_owned());
        let database = match host.is_empty() {
            true => Database::Socket(Path::new(&folder).join(format!(".s.PGSQL.{port}"))),
            false => Database::Tcp { host, port },
        };
        Ok(Self { embedded, database })
    }
}

/// A node's file, and the arguments that count over it.
struct Source<'a> {
    file: Option<Document<'a>>,
    arguments: &'a [String],
}

impl<'a> Source<'a> {
    fn open(what: &'static str, text: Option<&'a str>, arguments: &'a [String]) -> Result<Self, ConfigError> {
        let file = text.map(|text| Document::parse_secret(what, text)).transpose()?;
        Ok(Self { file, arguments })
    }

    /// The argument's value, else the file's.
    fn value<T>(
        &self,
        flag: &str,
        right: &'static str,
        parse: impl Fn(&str) -> Option<T>,
        read: impl Fn(&Document<'a>) -> Result<Option<T>, ConfigError>,
    ) -> Result<Option<T>, ConfigError> {
        if let Some(value) = value_of(self.arguments, flag) {
            let wrong = || ConfigError::Value {
                place: "the node's arguments".to_owned(),
                key: flag.to_owned(),
                value: excerpt(&value),
                reason: "it is of another kind".to_owned(),
                right,
            };
            return parse(&value).map(Some).ok_or_else(wrong);
        }
        self.file.as_ref().map_or(Ok(None), read)
    }

    fn text(&self, key: &str, flag: &str) -> Result<Option<String>, ConfigError> {
        self.value(flag, TEXT, |text| Some(text.to_owned()), |file| file.text(key))
    }

    fn boolean(&self, key: &str, flag: &str) -> Result<Option<bool>, ConfigError> {
        if has_flag(self.arguments, flag) && value_of(self.arguments, flag).is_none() {
            // The node demands a value and will say so; what was meant is clear.
            return Ok(Some(true));
        }
        self.value(flag, TRUTH, |text| text.parse().ok(), |file| file.boolean(key))
    }

    fn port(&self, key: &str, flag: &str) -> Result<Option<u16>, ConfigError> {
        let read = |file: &Document<'a>| {
            let number = file.number(key, u16::MAX.into(), PORT)?;
            Ok(number.and_then(|number| u16::try_from(number).ok()))
        };
        self.value(flag, PORT, |text| text.parse().ok(), read)
    }
}

/// The height that core's `GET /statistics` gives: a number, which JSON writers of its kind put in quotes.
pub fn height(said: &[u8]) -> Option<u64> {
    let said: serde_json::Value = serde_json::from_slice(said).ok()?;
    let height = said.pointer("/statistics/blockHeight")?;
    height.as_u64().or_else(|| height.as_str()?.parse().ok())
}
