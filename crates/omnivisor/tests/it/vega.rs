//! The dialect of Vega Visor, from outside: core and data node, upgraded from core's own word.

mod archive;
mod asset;
mod asset_source;
mod calm;
mod own;
mod pair;
mod upgrade;
mod world;
