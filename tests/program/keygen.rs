//! `llamatower keygen`: new keys, the keys file, and rotation.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Unit};
use llamatower_layers::api_key::{KeyDigest, KeySet, Role};

use crate::harness::{Exited, Gateway, chat, run, send, tiny};
use crate::keys_file::entry;

async fn keygen(file: &Path, arguments: &[&str]) -> Exited {
    let path = file.to_str().unwrap();
    let arguments = [&["keygen", "--file", path], arguments].concat();
    run(&arguments, &[]).await
}

#[tokio::test]
async fn keygen_prints_a_line_that_the_gateway_accepts_or_an_error_about_the_name() {
    for name in ["ada", "team-a.eu", "ada@example.org"] {
        for (arguments, variable) in [
            (&["keygen", name][..], "LLAMATOWER_API_KEYS"),
            (&["keygen", name, "--admin"], "LLAMATOWER_ADMIN_KEYS"),
        ] {
            let exited = run(arguments, &[]).await;
            assert_eq!(exited.code, Some(0), "{}", exited.stderr);
            let lines: Vec<_> = exited.stdout.lines().collect();
            let [of_key, key, of_line, line] = lines[..] else {
                panic!("{}", exited.stdout);
            };
            assert_eq!(of_key, "key for the client:");
            assert_eq!(of_line, format!("line for {variable} or its file:"));
            // As copied, with the blanks before it.
            let checked = run(&["check"], &[(variable, line)]).await;
            assert_eq!(checked.code, Some(0), "{}", checked.stderr);
            assert!(checked.stdout.contains(&format!("[secret: {name}]")));
            let keys = KeySet::from_lines([line], Role::User).unwrap();
            let owner = keys.find(key.trim()).unwrap();
            assert_eq!(&*owner.name, name);
        }
    }
    for name in ["ada lovelace", "a=b", "a,b", "", "a\nb", "a:b"] {
        let exited = run(&["keygen", name], &[]).await;
        assert_eq!(exited.code, Some(1), "{name:?}: {}", exited.stdout);
        assert!(
            exited.stderr.contains("letters, digits"),
            "{}",
            exited.stderr
        );
        assert_eq!(exited.stdout, "");
    }
}

#[tokio::test]
async fn keygen_writes_rotates_and_keeps_comments() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.toml");
    let first = keygen(&file, &["ada"]).await;
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    let key = first.stdout.trim_end();
    assert_eq!(first.stdout, format!("{key}\n"), "the key and nothing else");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    let digest = KeyDigest::of(key);
    assert_eq!(text, format!("[keys.ada]\ndigest = \"{digest}\"\n"));

    let text = format!(
        "# our keys\n{}# of Ada\n",
        text.replace("digest", "digest  ")
    );
    std::fs::write(&file, &text).unwrap();
    let ops = keygen(&file, &["ops@home", "--admin", "--expires", "90d"]).await;
    assert_eq!(ops.code, Some(0), "{}", ops.stderr);
    let with_ops = std::fs::read_to_string(&file).unwrap();
    assert!(with_ops.starts_with(&text), "{with_ops}");
    for part in ["[keys.\"ops@home\"]", "expires = 2", "manage = true"] {
        assert!(with_ops.contains(part), "{with_ops}");
    }
    let again = keygen(&file, &["ada"]).await;
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("--rotate"), "{}", again.stderr);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), with_ops);

    let second = keygen(&file, &["ada", "--rotate", "--expires", "2090-01-31"]).await;
    assert_eq!(second.code, Some(0), "{}", second.stderr);
    let rotated = std::fs::read_to_string(&file).unwrap();
    for part in ["# our keys\n", "# of Ada\n", "expires = 2090-01-31\n"] {
        assert!(rotated.contains(part), "{rotated}");
    }
    let settings = [("LLAMATOWER_KEYS_FILE", file.to_str().unwrap())];
    let sim = tiny().await;
    let gateway = Gateway::start_up(&[&sim], &settings).await;
    for key in [key, second.stdout.trim_end(), ops.stdout.trim_end()] {
        let request = gateway.post_request("/api/chat", &chat());
        assert_eq!(send(request.bearer_auth(key)).await.status, 200);
    }
    for wrong in [
        &["eve", "--rotate"][..],
        &["eve", "--expires", "soon"],
        &["eve", "--expires", "2020-01-31"],
        &["a b"],
    ] {
        let exited = keygen(&file, wrong).await;
        assert_eq!(exited.code, Some(1), "{wrong:?}");
        assert_eq!(exited.stdout, "");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), rotated);
}

#[tokio::test]
async fn a_date_of_keygen_is_the_midnight_of_the_time_zone_of_the_gateway() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys.toml");
    for (name, expires) in [("ada", "2090-01-31"), ("ben", "2090-01-31T18:00:00Z")] {
        let made = keygen(&file, &[name, "--expires", expires]).await;
        assert_eq!(made.code, Some(0), "{}", made.stderr);
    }
    let text = std::fs::read_to_string(&file).unwrap();
    for expires in ["2090-01-31", "2090-01-31T18:00:00Z"] {
        assert!(text.contains(&format!("expires = {expires}\n")), "{text}");
    }
}

#[tokio::test]
async fn the_rotation_of_an_expired_key_does_not_make_its_old_keys_valid_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.toml");
    for expires in [
        "2020-01-31",
        "\"2020-01-31T18:00:00\"",
        "2020-01-31T18:00:00Z",
    ] {
        let revoked = entry("ada", "old-key", &format!("expires = {expires} # leaked"));
        std::fs::write(&file, &revoked).unwrap();
        let useless = keygen(&file, &["ada", "--rotate"]).await;
        assert_eq!((useless.code, &*useless.stdout), (Some(1), ""));
        assert!(useless.stderr.contains("--expires"), "{}", useless.stderr);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), revoked);

        let new = keygen(&file, &["ada", "--rotate", "--expires", "1y"]).await;
        assert_eq!(new.code, Some(0), "{}", new.stderr);
        let settings = [("LLAMATOWER_KEYS_FILE", file.to_str().unwrap())];
        let sim = tiny().await;
        let gateway = Gateway::start_up(&[&sim], &settings).await;
        for (key, status) in [("old-key", 401), (new.stdout.trim_end(), 200)] {
            let request = gateway.post_request("/api/chat", &chat());
            assert_eq!(send(request.bearer_auth(key)).await.status, status, "{key}");
        }
    }
}

#[tokio::test]
async fn a_key_that_has_expired_in_some_time_zones_only_is_not_rotated() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.toml");
    let utc = TimeZone::UTC.to_datetime(Timestamp::now());
    let hours_from_now = |hours: i64| {
        utc.saturating_add(hours.hours())
            .round(Unit::Second)
            .unwrap()
    };
    let write = |expires: &str| {
        let text = entry("ada", "old-key", &format!("expires = {expires}"));
        std::fs::write(&file, &text).unwrap();
        text
    };

    for hours in [-10, 0, 12] {
        let expires = hours_from_now(hours);
        for expires in [expires.to_string(), format!("\"{expires}\"")] {
            let text = write(&expires);
            for arguments in [
                &["ada", "--rotate"][..],
                &["ada", "--rotate", "--expires", "1y"],
            ] {
                let refused = keygen(&file, arguments).await;
                assert_eq!((refused.code, &*refused.stdout), (Some(1), ""), "{hours}");
                for part in ["LLAMATOWER_TIME_ZONE", "offset"] {
                    assert!(refused.stderr.contains(part), "{}", refused.stderr);
                }
                assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
            }
        }
    }

    let old = KeyDigest::of("old-key").to_string();
    for (expires, is_kept) in [
        (format!("{}Z", hours_from_now(-1)), false),
        (format!("{}Z", hours_from_now(1)), true),
        (hours_from_now(-13).to_string(), false),
        (hours_from_now(15).to_string(), true),
    ] {
        write(&expires);
        let rotated = keygen(&file, &["ada", "--rotate", "--expires", "1y"]).await;
        assert_eq!(rotated.code, Some(0), "{expires}: {}", rotated.stderr);
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text.contains(&old), is_kept, "{expires}: {text}");
    }
}

#[tokio::test]
async fn a_rotation_changes_no_permission() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.toml");
    let text = entry("ada", "ada-key", "");
    std::fs::write(&file, &text).unwrap();
    let refused = keygen(&file, &["ada", "--rotate", "--admin"]).await;
    assert_eq!((refused.code, &*refused.stdout), (Some(2), ""));
    assert!(refused.stderr.contains("--admin"), "{}", refused.stderr);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
}
