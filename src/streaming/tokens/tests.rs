use super::*;
use crate::ids::{ContainerId, SandboxId};

fn ask() -> Ask {
    Ask::PortForward(PortForward { sandbox: SandboxId::random(), ports: vec![80] })
}

fn take(tokens: &Tokens, token: &str) -> Option<Ask> {
    tokens.take(token, |_| Some(())).ok().map(|(ask, ())| ask)
}

#[tokio::test(start_paused = true)]
async fn cve_2020_8558_a_token_is_128_random_bits_and_safe_in_a_url() {
    let tokens = Tokens::default();
    let (mut ones, mut zeros) = (0_u128, 0_u128);
    for _ in 0..100 {
        let token = tokens.put(ask()).unwrap();
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{token}");
        let bits = u128::from_be_bytes(URL_SAFE_NO_PAD.decode(&token).unwrap().try_into().unwrap());
        (ones, zeros) = (ones | bits, zeros | !bits);
    }
    assert_eq!((ones, zeros), (u128::MAX, u128::MAX), "some bits are always the same");
}

#[tokio::test(start_paused = true)]
async fn cve_2020_8558_a_token_works_once() {
    let tokens = Tokens::default();
    let token = tokens.put(ask()).unwrap();
    assert!(matches!(take(&tokens, &token), Some(Ask::PortForward(_))));
    assert!(take(&tokens, &token).is_none());
}

#[tokio::test(start_paused = true)]
async fn cve_2020_8558_a_token_works_for_a_minute() {
    let tokens = Tokens::default();
    let (in_time, late) = (tokens.put(ask()).unwrap(), tokens.put(ask()).unwrap());
    tokio::time::advance(Duration::from_secs(59)).await;
    assert!(take(&tokens, &in_time).is_some());
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(take(&tokens, &late).is_none());
}

#[tokio::test(start_paused = true)]
async fn cve_2020_8558_the_1001st_that_waits_is_refused_until_one_is_used_or_expires() {
    let tokens = Tokens::default();
    let first = tokens.put(ask()).unwrap();
    for _ in 1..MOST {
        tokens.put(ask()).unwrap();
    }
    assert!(tokens.put(ask()).is_err());
    assert!(take(&tokens, &first).is_some());
    assert!(tokens.put(ask()).is_ok());
    assert!(tokens.put(ask()).is_err());
    tokio::time::advance(LIFETIME).await;
    assert!(tokens.put(ask()).is_ok());
    assert_eq!(tokens.waiting.lock().unwrap().len(), 1, "the expired are gone");
}

#[tokio::test(start_paused = true)]
async fn commands_that_wait_for_their_clients_have_64_mib_together() {
    let command = |bytes: usize| {
        let (sandbox, container, command) = (SandboxId::random(), ContainerId::random(), vec!["x".repeat(bytes)]);
        Ask::Exec(Exec { sandbox, container, command, tty: false, stdin: false, stdout: true, stderr: true })
    };
    let tokens = Tokens::default();
    let first = tokens.put(command(6 << 20)).unwrap();
    for _ in 1..10 {
        tokens.put(command(6 << 20)).unwrap();
    }
    assert!(tokens.put(command(6 << 20)).is_err());
    assert!(tokens.put(ask()).is_ok() && tokens.put(command(100)).is_ok());
    assert!(take(&tokens, &first).is_some());
    assert!(tokens.put(command(6 << 20)).is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_a_token_is_none() {
    let tokens = Tokens::default();
    let token = tokens.put(ask()).unwrap();
    for wrong in
        ["", "guess", &token[1..], &format!("{token}="), &format!("{token}A"), &"é".repeat(11), &"/".repeat(22)]
    {
        assert!(take(&tokens, wrong).is_none(), "{wrong}");
    }
    // The last of the 22 characters encodes four bits that are 0 in every token: a spelling with other bits is not the
    // token.
    let last = token.chars().last().unwrap();
    let other = char::from_u32(u32::from(last) + 1).unwrap();
    assert!(take(&tokens, &format!("{}{other}", &token[..LENGTH - 1])).is_none());
    assert!(take(&tokens, &token).is_some());
}

#[tokio::test(start_paused = true)]
async fn t6_urls_of_one_pod_leave_as_many_to_others() {
    let tokens = Tokens::default();
    let one = ask();
    let put = |ask: &Ask| tokens.put(ask.clone());
    let mut of_one: Vec<String> = (0..MOST / 2).map(|_| put(&one).unwrap()).collect();
    assert!(put(&one).is_err());
    let other = put(&ask()).unwrap();
    assert!(take(&tokens, &other).is_some());
    assert!(take(&tokens, &of_one.pop().unwrap()).is_some());
    assert!(put(&one).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_token_whose_session_may_not_begin_stays() {
    let tokens = Tokens::default();
    let token = tokens.put(ask()).unwrap();
    assert!(matches!(tokens.take(&token, |_| None::<()>), Err(NotTaken::NotNow)));
    assert!(take(&tokens, &token).is_some());
    assert!(matches!(tokens.take(&token, |_| Some(())), Err(NotTaken::Unknown)));
}
