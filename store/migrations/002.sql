-- Schema 2: who a job asked to decide; views for people's own SQL.

ALTER TABLE jobs ADD COLUMN policy TEXT NOT NULL DEFAULT '';  -- asked for by the job; empty: the daemon's

-- For pages sorted or filtered by them. Each costs an insertion about a tenth; what else there is
-- (job, decider with a job, window) is found through trials_by_job, and step and loss within a job.
CREATE INDEX trials_by_reward ON trials (reward, id);
CREATE INDEX trials_by_created ON trials (created, id);
CREATE INDEX trials_by_decider ON trials (decider, id);
CREATE INDEX trials_by_decider_reward ON trials (decider, reward, id);

-- Views for people's own SQL (attune sql). Their columns stay as they are; new ones come at the end.
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

CREATE VIEW history_anomalies AS
SELECT anomalies.job, sites.name AS site, head,
  CASE anomalies.kind WHEN 0 THEN 'saturated' WHEN 1 THEN 'diffuse' WHEN 2 THEN 'dormant'
    WHEN 3 THEN 'drifting' END AS kind,
  first_step, last_step, severity
FROM anomalies JOIN sites ON sites.job = anomalies.job AND sites.position = anomalies.site;
