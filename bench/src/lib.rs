//! `seawall-bench`: a load generator for WebSocket servers with reliable measurements, and bare
//! echoes.
//!
//! Modules in the order bytes take: `target` makes sockets, `ring` and `buffers` move bytes, `tls`
//! encrypts them, `upgrade`, `wire`, `deflate` and `sheet` (whose lengths are `sizes`) know the
//! protocol, `client` is one connection, which ends by a `fault`, `fleet` is a ring's connections.
//! What they do is a load: `echo`, `connect`, `hold`, `storm`, `slow`, `replay`, `fanout`,
//! `hostile`, of which some use `schedule`, `pulse`, `bystanders`, `policy` and `returning`.
//! `crew` are the threads, `recorder` keeps their latencies, `monitor` shows them meanwhile. `run`
//! measures a load with `cpu` and `kernel`, prints a `report`, and holds it to what is `expect`ed;
//! `plot` draws reports. `gateway` is the application of loads through a gateway.
//!
//! A new load is a module that implements [`fleet::Load`], its arguments in `cli`, and a function
//! from arguments to report in `run`; frames other than the sheet's are sent with
//! `Fleet::send_frame` or `Fleet::send_shared`.
//!
//! Nothing here shares code with the server: a bug in its codec must not be hidden by the same bug
//! on this side.

pub mod bare;
pub mod buffers;
pub mod bystanders;
pub mod cli;
pub mod client;
pub mod connect;
pub mod cpu;
pub mod crew;
pub mod deflate;
pub mod echo;
pub mod expect;
pub mod fanout;
pub mod fault;
pub mod fleet;
pub mod gateway;
pub mod hold;
pub mod hostile;
pub mod kernel;
pub mod monitor;
pub mod origin;
pub mod plot;
pub mod policy;
pub mod pulse;
pub mod recorder;
pub mod replay;
pub mod report;
pub mod returning;
pub mod ring;
pub mod run;
pub mod schedule;
pub mod sheet;
pub mod sizes;
pub mod slow;
pub mod storm;
pub mod sys;
pub mod target;
pub mod tls;
pub mod upgrade;
pub mod wire;
