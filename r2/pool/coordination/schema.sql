-- Version 1 of what machines share. Time is this server's, everywhere: no client's clock is asked.

create schema if not exists r2_shared;
create table r2_shared.version (version int not null);

-- Requests and tokens granted, in buckets of time (as in r2/pool/limits/lease.py). Unlogged: a crash of the server
-- empties them, and `rates_since` with them, so that the next grant knows to hold back one window.
create unlogged table r2_shared.rates (
    owner text, start_us bigint, requests float8 not null, tokens float8 not null, primary key (owner, start_us)
);
create unlogged table r2_shared.rates_since (
    one boolean primary key default true check (one), since_us bigint not null
);
insert into r2_shared.rates_since values (true, 0);

create table r2_shared.accounts (name text primary key, cap_usd float8 not null, spent_usd float8 not null);
-- `booked_usd`: what the holder has told that it spent, in all. `forfeited_usd`: what was booked as spent when its hold
-- ran out; a holder that comes back gets it back, for then it says itself what it spent.
create table r2_shared.holds (
    account text references r2_shared.accounts, holder text, usd float8 not null, booked_usd float8 not null,
    forfeited_usd float8 not null default 0, until timestamptz not null, primary key (account, holder)
);

create table r2_shared.runs (
    run text primary key, pool_path text not null, created_at timestamptz not null default now(),
    stopped_at timestamptz, stopped_by text
);
create table r2_shared.shards (
    run text references r2_shared.runs on delete cascade, idx int, owner text, until timestamptz,
    token bigint not null default 0, done boolean not null default false, primary key (run, idx)
);
create table r2_shared.workers (
    run text references r2_shared.runs on delete cascade, worker text, code text not null, since timestamptz not null,
    until timestamptz not null, primary key (run, worker)
);
-- A call of a claimed shard. `open_usd`: begun under this token and not stored, with the most that it may cost.
create table r2_shared.calls (
    run text references r2_shared.runs on delete cascade, shard int, key text, token bigint, open_usd float8,
    body bytea, primary key (run, shard, key, token)
);

create function r2_shared.now_us() returns bigint language sql volatile as
    $$ select (extract(epoch from clock_timestamp()) * 1e6)::bigint $$;

create function r2_shared.correct_rates(whose text, buckets bigint[], add_requests float8[], add_tokens float8[])
returns void language sql volatile as $$
    update r2_shared.rates r
    set requests = greatest(0, r.requests + f.requests), tokens = greatest(0, r.tokens + f.tokens)
    from unnest(buckets, add_requests, add_tokens) as f (bucket, requests, tokens)
    where r.owner = whose and r.start_us = f.bucket
$$;

-- Up to `want` and at least `need`, or in `wait_us` when to ask again. As `Lease.take`.
create function r2_shared.take_rate(
    whose text, max_requests float8, max_tokens float8, need_requests float8, need_tokens float8,
    want_requests float8, want_tokens float8, bucket_us bigint, horizon_us bigint,
    buckets bigint[], add_requests float8[], add_tokens float8[],
    out wait_us bigint, out is_held_back boolean, out granted_start_us bigint, out granted_requests float8,
    out granted_tokens float8
) language plpgsql volatile as $$
declare
    at_us bigint; since bigint; room_requests float8; room_tokens float8; freed_us bigint; bucket record;
begin
    perform set_config('synchronous_commit', 'off', true);
    perform pg_advisory_xact_lock(hashtextextended(whose, 7082));
    at_us := r2_shared.now_us();
    is_held_back := false;
    select since_us into since from r2_shared.rates_since;
    if not found then
        insert into r2_shared.rates_since values (true, at_us) on conflict do nothing;
        since := at_us;
    end if;
    if at_us < since + horizon_us then
        is_held_back := true;
        wait_us := since + horizon_us - at_us;
        return;
    end if;
    perform r2_shared.correct_rates(whose, buckets, add_requests, add_tokens);
    delete from r2_shared.rates where owner = whose and start_us <= at_us - horizon_us - bucket_us;
    select max_requests - coalesce(sum(requests), 0), max_tokens - coalesce(sum(tokens), 0)
        into room_requests, room_tokens from r2_shared.rates where owner = whose;
    need_requests := least(need_requests, max_requests);
    need_tokens := least(need_tokens, max_tokens);
    if room_requests < need_requests - 1e-9 or room_tokens < need_tokens - 1e-9 then
        need_requests := need_requests - room_requests;
        need_tokens := need_tokens - room_tokens;
        freed_us := at_us;
        for bucket in select start_us, requests, tokens from r2_shared.rates where owner = whose order by start_us loop
            freed_us := bucket.start_us;
            need_requests := need_requests - bucket.requests;
            need_tokens := need_tokens - bucket.tokens;
            exit when need_requests <= 1e-9 and need_tokens <= 1e-9;
        end loop;
        wait_us := greatest(1000, freed_us + bucket_us + horizon_us - at_us);
        return;
    end if;
    granted_requests := greatest(need_requests, floor(least(want_requests, room_requests)));
    granted_tokens := greatest(need_tokens, least(want_tokens, room_tokens));
    granted_start_us := at_us - at_us % bucket_us;
    insert into r2_shared.rates values (whose, granted_start_us, granted_requests, granted_tokens)
        on conflict (owner, start_us) do update
        set requests = r2_shared.rates.requests + excluded.requests, tokens = r2_shared.rates.tokens + excluded.tokens;
end $$;

-- What holders that are gone held on these accounts counts as spent: nobody knows how much of it their calls cost.
create function r2_shared.forfeit(names text[], except_holder text) returns void language plpgsql volatile as $$
begin
    update r2_shared.accounts a set spent_usd = a.spent_usd + gone.usd from (
        select account, sum(usd) as usd from r2_shared.holds where account = any (names) and holder <> except_holder
            and usd > 0 and until < clock_timestamp() group by account
    ) gone where a.name = gone.account;
    update r2_shared.holds set forfeited_usd = forfeited_usd + usd, usd = 0 where account = any (names)
        and holder <> except_holder and usd > 0 and until < clock_timestamp();
end $$;

create function r2_shared.open_account(account_name text, cap float8, journals_usd float8) returns void
language plpgsql volatile as $$
begin
    insert into r2_shared.accounts values (account_name, cap, 0)
        on conflict (name) do update set cap_usd = excluded.cap_usd;
    if journals_usd is null then
        return;
    end if;
    perform 1 from r2_shared.accounts where name = account_name for update;
    perform r2_shared.forfeit(array[account_name], '');
    if exists (select 1 from r2_shared.holds where account = account_name and usd > 0) then
        update r2_shared.accounts set spent_usd = greatest(spent_usd, journals_usd) where name = account_name;
    else
        update r2_shared.accounts set spent_usd = journals_usd where name = account_name;
        update r2_shared.holds set forfeited_usd = 0 where account = account_name;
    end if;
end $$;

-- Books what the holder has spent in all on each account, and sets its hold on all of them: to `want_usd` if every cap
-- allows it, else to `keep_usd`. Asked twice with the same totals it books nothing twice.
create function r2_shared.exchange(
    names text[], whose text, keep_usd float8, want_usd float8, totals_usd float8[], hold_s float8,
    out fits boolean, out room_usd float8
) language plpgsql volatile as $$
begin
    perform 1 from r2_shared.accounts where name = any (names) order by name for update;
    perform r2_shared.forfeit(names, whose);
    update r2_shared.accounts a
        set spent_usd = a.spent_usd + t.total - coalesce(h.booked_usd, 0) - coalesce(h.forfeited_usd, 0)
        from unnest(names, totals_usd) as t (name, total)
            left join r2_shared.holds h on h.account = t.name and h.holder = whose
        where a.name = t.name;
    select coalesce(bool_and(want_usd <= room + 1e-12), true) into fits from (
        select a.cap_usd - a.spent_usd - coalesce((
            select sum(h.usd) from r2_shared.holds h where h.account = a.name and h.holder <> whose), 0) as room
        from r2_shared.accounts a where a.name = any (names)) rooms;
    insert into r2_shared.holds (account, holder, usd, booked_usd, until)
        select t.name, whose, case when fits then want_usd else keep_usd end, t.total,
            clock_timestamp() + make_interval(secs => hold_s)
        from unnest(names, totals_usd) as t (name, total)
        on conflict (account, holder) do update set usd = excluded.usd, booked_usd = excluded.booked_usd,
            forfeited_usd = 0, until = excluded.until;
    select min(a.cap_usd - a.spent_usd - coalesce((
            select sum(h.usd) from r2_shared.holds h where h.account = a.name), 0))
        into room_usd from r2_shared.accounts a where a.name = any (names);
end $$;
