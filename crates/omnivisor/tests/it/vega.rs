//! The dialect of Vega Visor, from outside: core and data node, upgraded from core's own word.

mod archive;
mod asset;
mod asset_source;
mod calm;
mod doubles;
mod guide;
mod height;
mod held;
mod hung;
mod link;
mod own;
mod pair;
mod placed;
mod postgres;
mod supervision;
mod upgrade;
mod world;
