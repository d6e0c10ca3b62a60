//! Changes the process's user, irrevocably.

use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid, setgid, setgroups, setuid};

use crate::config::{ConfigError, Process};

/// The user and group to change to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProcessUser {
    user: Uid,
    group: Gid,
}

impl ProcessUser {
    /// Looks up the configured user; `None` where none is configured.
    pub(super) fn find(written: &Process) -> Result<Option<Self>, String> {
        if written.user.is_empty() {
            return Ok(None);
        }
        let (user, own_group) = find_user(&written.user)?;
        let group = match (written.group.as_str(), own_group) {
            ("", Some(own)) => own,
            ("", None) => {
                return Err(format!(
                    "process.user = \"{}\" does not exist on this host, so it has no group; set \
                     process.group",
                    written.user
                ));
            }
            (name, _) => find_group(name)?,
        };
        let found = Self { user, group };
        if geteuid().is_root() {
            return Ok(Some(found));
        }
        if found == (Self { user: geteuid(), group: getegid() }) {
            return Ok(None);
        }
        Err(format!(
            "process.user: only root can change to another user, not {}; start the server as \
             root, or leave process.user out",
            describe_current()
        ))
    }

    /// Numeric user and group.
    pub(super) fn ids(&self) -> (u32, u32) {
        (self.user.as_raw(), self.group.as_raw())
    }

    /// Drops supplementary groups, then the group, then the user, on all threads.
    pub(super) fn change_user(&self) -> Result<(), String> {
        let refused = |what: &str, error: nix::Error| {
            format!(
                "process.user: the kernel refuses {what}: {error} (containers: give CAP_SETUID and \
                 CAP_SETGID, or start the container as that user)"
            )
        };
        setgroups(&[self.group]).map_err(|error| refused("to drop groups", error))?;
        setgid(self.group).map_err(|error| refused("the group", error))?;
        setuid(self.user).map_err(|error| refused("the user", error))?;
        // If root could be regained, all of it would be worthless.
        if !self.user.is_root() && setuid(Uid::from_raw(0)).is_ok() {
            return Err("process.user: the process can still become root".to_owned());
        }
        Ok(())
    }
}

/// Looks up user and group, whatever the present user is.
pub(super) fn check_names(written: &Process) -> Vec<ConfigError> {
    let fault = |key: &str, text| ConfigError { key: Some(key.to_owned()), text };
    let mut found = Vec::new();
    if !written.user.is_empty() {
        found.extend(find_user(&written.user).err().map(|text| fault("process.user", text)));
    }
    if !written.group.is_empty() {
        found.extend(find_group(&written.group).err().map(|text| fault("process.group", text)));
    }
    found
}

fn find_user(name: &str) -> Result<(Uid, Option<Gid>), String> {
    let number = name.parse().ok().map(Uid::from_raw);
    let found = number.map_or_else(|| User::from_name(name), User::from_uid);
    match (found, number) {
        (Ok(Some(user)), _) => Ok((user.uid, Some(user.gid))),
        (Ok(None), Some(number)) => Ok((number, None)),
        (Ok(None), None) => Err(format!(
            "process.user = \"{name}\" does not exist on this host: `useradd --system {name}` \
             creates it; the user `nobody` exists on every host"
        )),
        (Err(error), _) => Err(format!("process.user = \"{name}\" lookup failed: {error}")),
    }
}

fn find_group(name: &str) -> Result<Gid, String> {
    if let Ok(number) = name.parse() {
        return Ok(Gid::from_raw(number));
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => Err(format!(
            "process.group = \"{name}\" does not exist on this host: `groupadd --system {name}` \
             creates it"
        )),
        Err(error) => Err(format!("process.group = \"{name}\" lookup failed: {error}")),
    }
}

pub(super) fn is_root() -> bool {
    geteuid().is_root()
}

/// The present user, as text.
pub(super) fn describe_current() -> String {
    let (user, group) = (geteuid(), getegid());
    let name = User::from_uid(user).ok().flatten().map(|user| user.name);
    format!("{} (uid {user}, gid {group})", name.as_deref().unwrap_or("unnamed user"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(user: &str, group: &str) -> Result<Option<ProcessUser>, String> {
        ProcessUser::find(&Process { user: user.into(), group: group.into(), ..Process::default() })
    }

    #[test]
    fn an_unknown_user_or_group_is_reported_with_its_remedy() {
        for (user, group, says) in [
            ("no-such-user", "", "useradd --system no-such-user"),
            ("root", "no-such-group", "groupadd --system no-such-group"),
            ("4000000001", "", "set process.group"),
        ] {
            let error = find(user, group).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        assert_eq!(find("", ""), Ok(None));
    }

    #[test]
    fn only_root_changes_user() {
        let found = find("4000000001", "4000000002");
        if is_root() {
            let (user, group) = (Uid::from_raw(4_000_000_001), Gid::from_raw(4_000_000_002));
            assert_eq!(found, Ok(Some(ProcessUser { user, group })));
        } else {
            assert!(found.unwrap_err().contains("only root"));
        }
    }
}
