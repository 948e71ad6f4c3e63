-- Schema 3: what a trial saw and chose lies in a table of its own. SQLite writes a row anew with
-- every change of a column, and a trial's answer, reasons and reward come one after the other:
-- each wrote its arrays, some 20 kB for 144 heads, once more. Lists read shorter rows, too.

DROP VIEW history_jobs;
DROP VIEW history_trials;
DROP INDEX trials_by_job;
DROP INDEX trials_to_learn;
DROP INDEX trials_by_reward;
DROP INDEX trials_by_created;
DROP INDEX trials_by_decider;
DROP INDEX trials_by_decider_reward;
ALTER TABLE trials RENAME TO whole_trials;

-- Decisions and what came of them, one at a window's end. The id is also the action's on the wire.
CREATE TABLE trials (
  id INTEGER PRIMARY KEY,          -- counts up from 1 over all jobs
  job INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  window INTEGER NOT NULL,         -- at whose end was decided
  step INTEGER NOT NULL,           -- optimiser step at which was decided
  created REAL NOT NULL,           -- Unix time at which the trial was first written
  loss REAL NOT NULL,              -- smoothed, at the window's end, nats
  imbalance REAL NOT NULL,         -- of the window
  active_heads INTEGER NOT NULL,   -- ones in setting_active, here to be listed quickly
  decider TEXT NOT NULL,           -- the policy's name, 'governor' or 'hand'
  why TEXT NOT NULL,               -- one line for a person
  policy_version INTEGER NOT NULL, -- of the network that decided; 0 for rules
  log_probability REAL NOT NULL,   -- of the action under the policy; 0 for deterministic ones
  ack_status INTEGER NOT NULL,     -- 0 nothing sent, 1 pending, 2 applied, 3 rejected, 4 expired
  ack_step INTEGER NOT NULL,       -- optimiser step at which it was applied, refused or expired
  ack_why TEXT NOT NULL,           -- the trainer's reason to refuse
  reward REAL,                     -- of the window that followed, nats; NULL until it closed
  has_action INTEGER NOT NULL      -- 1: a policy chose, and may learn from it; else 0
) STRICT;

-- The arrays of each trial.
CREATE TABLE trial_arrays (
  trial INTEGER PRIMARY KEY REFERENCES trials (id) ON DELETE CASCADE,
  site_offsets BLOB NOT NULL,      -- u32 [sites + 1]: first head of each site, then all heads
  tokens BLOB NOT NULL,            -- f32 [heads × features]: what the policy saw; the features'
                                   -- names in their order are in env/state.h
  mask_scale BLOB NOT NULL,        -- u8 [heads × 5]: 1 where the scale choice was open, else 0
  mask_count BLOB NOT NULL,        -- u8 [sites × 5]: 1 where the count change was open, else 0
  action_scale BLOB,               -- u8 [heads]: scale / 4, / 1.5, kept, × 1.5, × 4 as 0..4;
                                   -- NULL, as the next two, when no policy chose
  action_count BLOB,               -- u8 [sites]: heads halved, - 1, kept, + 1, doubled as 0..4
  action_score BLOB,               -- f32 [heads]: where the count changes, the highest stay
  setting_scale BLOB NOT NULL,     -- f32 [heads]: factor on the logits that the trainer is to have
  setting_gain BLOB NOT NULL,      -- f32 [heads]: factor on the head's output
  setting_active BLOB NOT NULL,    -- u8 [heads]: 1 computed, 0 skipped
  CHECK ((action_scale IS NULL) = (action_count IS NULL)),
  CHECK ((action_scale IS NULL) = (action_score IS NULL))
) STRICT;

INSERT INTO trials
SELECT id, job, window, step, created, loss, imbalance, active_heads, decider, why, policy_version,
  log_probability, ack_status, ack_step, ack_why, reward, action_scale IS NOT NULL
FROM whole_trials ORDER BY id;
INSERT INTO trial_arrays
SELECT id, site_offsets, tokens, mask_scale, mask_count, action_scale, action_count, action_score,
  setting_scale, setting_gain, setting_active
FROM whole_trials ORDER BY id;
DROP TABLE whole_trials;

-- As before, but for trials_to_learn: see schema 2.
CREATE INDEX trials_by_job ON trials (job, id);
CREATE INDEX trials_to_learn ON trials (id) WHERE has_action = 1 AND reward IS NOT NULL;
CREATE INDEX trials_by_reward ON trials (reward, id);
CREATE INDEX trials_by_created ON trials (created, id);
CREATE INDEX trials_by_decider ON trials (decider, id);
CREATE INDEX trials_by_decider_reward ON trials (decider, reward, id);

CREATE VIEW history_jobs AS
SELECT id AS job, name, key,
  CASE outcome WHEN 0 THEN 'running' WHEN 1 THEN 'finished' WHEN 2 THEN 'failed'
    WHEN 3 THEN 'lost' END AS outcome,
  started, strftime('%Y-%m-%dT%H:%M:%SZ', started, 'unixepoch') AS started_at,
  nullif(ended, 0) AS ended,
  strftime('%Y-%m-%dT%H:%M:%SZ', nullif(ended, 0), 'unixepoch') AS ended_at,
  CASE budget_kind WHEN 0 THEN 'compute' WHEN 1 THEN 'steps' END AS budget_kind,
  budget_amount, budget_price, seed, learning_rate, policy, steps, compute_seconds, loss,
  validation_loss,
  (SELECT count(*) FROM trials WHERE trials.job = jobs.id) AS trials,
  (SELECT count(*) FROM sites WHERE sites.job = jobs.id) AS sites,
  (SELECT sum(heads) FROM sites WHERE sites.job = jobs.id) AS heads
FROM jobs;

CREATE VIEW history_trials AS
SELECT id AS trial, job, window, step, created,
  strftime('%Y-%m-%dT%H:%M:%SZ', created, 'unixepoch') AS created_at,
  loss, imbalance, active_heads, decider, why, policy_version, log_probability,
  CASE ack_status WHEN 0 THEN 'none' WHEN 1 THEN 'pending' WHEN 2 THEN 'applied'
    WHEN 3 THEN 'rejected' WHEN 4 THEN 'expired' END AS ack,
  CASE ack_status WHEN 0 THEN NULL ELSE ack_step END AS ack_step,
  nullif(ack_why, '') AS ack_why, reward
FROM trials;
