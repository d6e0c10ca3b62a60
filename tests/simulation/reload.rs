//! Reloads during traffic: random values of every option, from the table.

use std::sync::Arc;

use seawall::config::file::table::Kind;
use seawall::config::file::{File, Route, SECTIONS};
use seawall::config::{Config, HandlerName};
use seawall::driver::sim::{Faults, Network};
use seawall::shard::mail::Mail;
use toml::{Table, Value};

use crate::client::{Behaviour, Client};
use crate::world::World;
use crate::{compression, seeds};

/// What a reload leaves as it is, and what is here several times.
const LEFT_OUT: [&str; 9] =
    ["", "admin", "auth", "engine", "log", "metrics", "process", "resume", "rates"];
/// What a reload leaves as it is, in the other sections.
const KEPT: [&str; 4] =
    ["connections_per_shard_max", "address_prefix_v4", "address_prefix_v6", "history_bytes_max"];

fn number(network: &Network, default: u64, max: u64) -> u64 {
    let value = match network.random_below(6) {
        0 => network.random_below(3),
        1 => network.random_below(300),
        2 | 3 => network.random_below(100_000),
        4 => default / 2,
        _ => default.saturating_mul(2),
    };
    value.min(max)
}

/// The same with other values; what is not valid together is drawn again.
fn another(network: &Network, file: &File) -> Arc<Config> {
    let base = Value::try_from(file).unwrap();
    loop {
        let mut text = base.clone();
        for section in SECTIONS.iter().filter(|section| !LEFT_OUT.contains(&section.name)) {
            let tables: Vec<&mut Table> = match text.get_mut(section.name) {
                Some(Value::Table(table)) => vec![table],
                Some(Value::Array(all)) if section.name == "route" => {
                    all.iter_mut().filter_map(Value::as_table_mut).collect()
                }
                _ => continue,
            };
            for table in tables {
                for row in section.rows.iter().filter(|row| !KEPT.contains(&row.key)) {
                    let default = (row.default)().as_integer().unwrap_or_default() as u64;
                    if let (Kind::Number { max }, 0) = (row.kind, network.random_below(4)) {
                        let value = number(network, default, max) as i64;
                        table.insert(row.key.to_owned(), Value::Integer(value));
                    }
                }
            }
        }
        let file: File = text.try_into().unwrap();
        if let Ok(config) = Config::validate(&file, 20_000, 1) {
            return Arc::new(config);
        }
    }
}

#[test]
fn every_account_is_closed_whatever_changes_meanwhile() {
    for seed in seeds(9000, 80) {
        let shards = 1 + (seed % 2) as u16;
        let mut file = File::default();
        let mut world = World::new(seed, shards, Faults::harmless(), |written| {
            written.shards = shards;
            written.limits.message_bytes_max = 64 * 1024;
            compression::vary(seed, written);
            file = written.clone();
        });
        assert!(file.routes.iter().all(|route| route.handler == HandlerName::Echo));
        for _ in 0..10 {
            for _ in 0..3 {
                let behaviour = Behaviour::draw(&world.network);
                let shard = world.network.random_below(shards.into()) as u16;
                world.clients.push(Client::connect(&world.network, shard, behaviour));
            }
            let config = another(&world.network, &file);
            (0..shards).for_each(|shard| world.post(shard, Mail::Renew(config.clone())));
            (0..world.network.random_below(40)).for_each(|_| world.step());
        }
        let config = Arc::new(Config::validate(&file, 20_000, 1).unwrap());
        (0..shards).for_each(|shard| world.post(shard, Mail::Renew(config.clone())));
        world.clients.push(Client::connect(&world.network, 0, Behaviour::echo(3)));
        (0..500).for_each(|_| world.step());
        let last = world.clients.last().unwrap();
        assert!(last.is_done(), "seed {seed}: {last:?}");
        if seed % 4 == 0 {
            world.stop();
        } else {
            world.drain();
        }
        world.check_accounts();
    }
}

/// Connections that a lower limit makes overdue, all at once, leave spread over a tenth of it.
#[test]
fn a_lower_limit_closes_what_is_overdue_one_after_the_other() {
    let changes: [fn(&mut Route); 2] = [
        |route| route.connection_age_max_ms = 3_600_000,
        |route| route.idle_timeout_ms = 3_600_000,
    ];
    for change in changes {
        let mut route = Route { ping_interval_ms: 0, ..Route::default() };
        let mut world =
            World::new(5, 1, Faults::default(), |file| file.routes = vec![route.clone()]);
        for _ in 0..400 {
            world.clients.push(Client::connect(&world.network, 0, Behaviour::hold()));
        }
        world.rest();
        assert_eq!(world.totals().gauges.open, 400);
        world.network.advance_clock(2 * 3_600_000_000_000);
        world.rest();
        change(&mut route);
        let file = File { shards: 1, routes: vec![route], ..File::default() };
        world.post(0, Mail::Renew(Arc::new(Config::validate(&file, 20_000, 1).unwrap())));
        let mut most = 0;
        for _ in 0..370 {
            let before = world.totals().gauges.open;
            let until = world.network.now_ns() + 1_000_000_000;
            while world.network.now_ns() < until {
                world.network.advance_clock(200_000_000);
                world.step();
            }
            most = most.max(before - world.totals().gauges.open);
        }
        assert_eq!(world.totals().gauges.open, 0, "all have left within 360 s");
        assert!(most <= 12, "{most} left within one second");
        world.drain();
        world.check_laws(false);
    }
}
