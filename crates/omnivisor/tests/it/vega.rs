//! The dialect of Vega Visor, from outside: core and data node, upgraded from core's own word.

mod all_that_hangs;
mod announcements;
mod archive;
mod arguments;
mod asset;
mod asset_source;
mod calm;
mod commands;
mod configuration;
mod doubles;
mod essentials;
mod guide;
mod height;
mod held;
mod hung;
mod link;
mod own;
mod pair;
mod placed;
mod postgres;
mod reload;
mod silence;
pub mod snapshots;
mod supervision;
mod told;
mod upgrade;
pub mod world;
