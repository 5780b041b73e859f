//! Who runs the command: the user who called sudo, the one asked for, or simply ourselves.

use std::ffi::{CString, OsString};
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use nix::unistd::{Gid, Uid, User};

use crate::settings::{NameOrId, UserRequest};

/// A user that the command is to become, and what its environment says about that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    /// Absent for an id that nobody has.
    pub(super) account: Option<Account>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) home: PathBuf,
    pub(super) shell: PathBuf,
}

/// Variables by which sudo tells who called it: no longer true in a command that runs as that user.
pub(super) const SUDO_VARIABLES: [&str; 4] = ["SUDO_UID", "SUDO_GID", "SUDO_USER", "SUDO_COMMAND"];

/// Who it shall be; None: whoever we are.
pub(super) fn identity(request: Option<&UserRequest>) -> anyhow::Result<Option<Identity>> {
    let environment = |name: &str| std::env::var(name).ok();
    let asked = match request {
        Some(request) => Some(request.clone()),
        None => invoking(Uid::effective().is_root(), environment("SUDO_UID"), environment("SUDO_GID"))?,
    };
    asked.map(|asked| look_up(&asked, request.is_none())).transpose()
}

/// Who called sudo. Only root believes the environment: for anybody else the variables are just text.
/// One that is no number is no reason to run the command as root.
fn invoking(
    root: bool,
    sudo_uid: Option<String>,
    sudo_gid: Option<String>,
) -> anyhow::Result<Option<UserRequest>> {
    let number = |name: &str, text: String| {
        text.parse::<u32>().map_err(|error| {
            anyhow!("{name} is {text:?}, which is no id ({error}): unset it, or say who runs the command with --user")
        })
    };
    let Some(uid) = sudo_uid.filter(|_| root) else { return Ok(None) };
    let uid = number("SUDO_UID", uid)?;
    let gid = sudo_gid.map(|gid| number("SUDO_GID", gid)).transpose()?;
    Ok((uid != 0).then_some(UserRequest { user: NameOrId::Id(uid), gid }))
}

/// Asks the system's user database. A group named on the command line is the only one; the group that sudo names is
/// the first among the user's own.
fn look_up(request: &UserRequest, keep_groups: bool) -> anyhow::Result<Identity> {
    let user = match &request.user {
        NameOrId::Id(id) => User::from_uid(Uid::from_raw(*id)).context("can't read the user database")?,
        NameOrId::Name(name) => {
            let user = User::from_name(name).context("can't read the user database")?;
            Some(user.ok_or_else(|| anyhow!("there is no user {name:?}: give an existing name, or UID:GID"))?)
        }
    };
    let Some(user) = user else { return nobody_known(request) };
    let gid = request.gid.unwrap_or_else(|| user.gid.as_raw());
    let groups = if request.gid.is_some() && !keep_groups { vec![gid] } else { groups_of(&user.name, gid)? };
    Ok(Identity {
        uid: user.uid.as_raw(),
        gid,
        groups,
        account: Some(Account { name: user.name, home: user.dir, shell: user.shell }),
    })
}

fn nobody_known(request: &UserRequest) -> anyhow::Result<Identity> {
    let (NameOrId::Id(uid), Some(gid)) = (&request.user, request.gid) else {
        let NameOrId::Id(uid) = &request.user else { return Err(anyhow!("there is no such user")) };
        return Err(anyhow!(
            "user {uid} has no entry in the user database: give its group too, --user {uid}:GID"
        ));
    };
    Ok(Identity { uid: *uid, gid, groups: vec![gid], account: None })
}

fn groups_of(name: &str, gid: u32) -> anyhow::Result<Vec<u32>> {
    let name = CString::new(name).context("a user's name holds a zero byte")?;
    let groups =
        nix::unistd::getgrouplist(&name, Gid::from_raw(gid)).context("can't read the group database")?;
    Ok(groups.into_iter().map(Gid::as_raw).collect())
}

/// The variables of the command's environment that depend on the user; None: to be removed.
pub(super) fn environment(identity: &Identity) -> Vec<(&'static str, Option<OsString>)> {
    let account = identity.account.as_ref();
    let name = account.map(|account| OsString::from(&account.name));
    let mut variables = vec![
        ("HOME", Some(account.map_or_else(|| "/".into(), |account| account.home.clone().into()))),
        ("USER", name.clone()),
        ("LOGNAME", name),
        ("SHELL", Some(account.map_or_else(|| "/bin/sh".into(), |account| account.shell.clone().into()))),
    ];
    variables.extend(SUDO_VARIABLES.map(|name| (name, None)));
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_id(uid: u32, gid: Option<u32>) -> UserRequest {
        UserRequest { user: NameOrId::Id(uid), gid }
    }

    #[test]
    fn sudo_is_believed_by_root_only() {
        let text = |text: &str| Some(text.to_owned());
        for (root, uid, gid, expected) in [
            (true, text("1000"), text("1001"), Some(by_id(1000, Some(1001)))),
            (true, text("1000"), None, Some(by_id(1000, None))),
            (true, text("0"), text("0"), None),
            (true, None, text("1001"), None),
            (false, text("1000"), text("1001"), None),
        ] {
            assert_eq!(invoking(root, uid, gid).unwrap(), expected);
        }
    }

    #[test]
    fn an_id_of_sudo_that_is_no_number_is_not_taken_for_root() {
        let text = |text: &str| Some(text.to_owned());
        for (uid, gid) in
            [(text("root"), None), (text(""), None), (text("-5"), None), (text("1000"), text("x"))]
        {
            assert!(invoking(true, uid.clone(), gid.clone()).is_err(), "{uid:?} {gid:?}");
        }
    }

    #[test]
    fn root_is_in_every_user_database() {
        let root =
            look_up(&UserRequest { user: NameOrId::Name("root".to_owned()), gid: None }, false).unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.groups.contains(&0));
        let variables = environment(&root);
        assert!(variables.contains(&("USER", Some("root".into()))));
        assert!(variables.contains(&("SUDO_UID", None)));
    }

    #[test]
    fn a_group_that_is_named_is_the_only_one() {
        assert_eq!(look_up(&by_id(0, Some(4321)), false).unwrap().groups, [4321]);
        assert!(look_up(&by_id(0, Some(4321)), true).unwrap().groups.contains(&4321));
    }

    #[test]
    fn an_unknown_id_needs_a_group() {
        const NOBODY_HAS: u32 = 3_987_654_321;
        let unknown = look_up(&by_id(NOBODY_HAS, Some(7)), false).unwrap();
        assert_eq!((unknown.uid, unknown.gid, unknown.account), (NOBODY_HAS, 7, None));
        assert!(
            look_up(&by_id(NOBODY_HAS, None), false)
                .unwrap_err()
                .to_string()
                .contains("--user 3987654321:GID")
        );
        let name = UserRequest { user: NameOrId::Name("no such user".to_owned()), gid: None };
        assert!(look_up(&name, false).unwrap_err().to_string().contains("no such user"));
    }
}
