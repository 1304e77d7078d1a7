-- What the store does for one fleet, in one step: see core/store.py, which makes the same decisions and says why.
--
-- KEYS[1] is "keepalive:{name}:meta"; all else has the same prefix, and so lies in the same hash slot:
--   meta        version, epoch, clock, ...          limits      key -> what was set for it
--   ends        member -> when its lease ends       keys        all keys that somebody holds or needs
--   m:MEMBER    what is known of it                 mk:MEMBER   its keys     mn:MEMBER   keys with news for it
--   k:KEY       MEMBER -> what it holds and needs, beside sums whose names begin with "#"
-- The key "" stands for all keys together. `wall`, `epoch` and `publish` are defined before this text.

local prefix = string.sub(KEYS[1], 1, -5)
local INF = math.huge
local max, min, floor = math.max, math.min, math.floor
local call = redis.call

local function text(n)
  if n == INF then return 'inf' elseif n == -INF then return '-inf' end
  return string.format('%.17g', n)
end
local function num(s, default)
  if not s then return default end
  if s == 'inf' then return INF elseif s == '-inf' then return -INF end
  return tonumber(s)
end
local function hash(name)
  local flat, found = call('HGETALL', prefix .. name), {}
  for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
  return found
end

-- the state, read as needed and written at the end

local meta = hash('meta')
if not meta.version then
  for _, m in ipairs(call('ZRANGE', prefix .. 'ends', 0, -1)) do
    call('DEL', prefix .. 'm:' .. m, prefix .. 'mk:' .. m, prefix .. 'mn:' .. m)
  end
  for _, k in ipairs(call('SMEMBERS', prefix .. 'keys')) do call('DEL', prefix .. 'k:' .. k) end
  call('DEL', prefix .. 'ends', prefix .. 'keys')
elseif meta.version ~= '1' then
  return redis.error_reply('KEEPALIVEVERSION ' .. meta.version)
end
local clock, old_wall, born = num(meta.clock, 0), num(meta.wall, 0), num(meta.born, 0)
local step, lease, kept = num(meta.step, 0), num(meta.lease, 0), num(meta.kept, 0)
local fences, expected, confirmed = num(meta.fences, 0), num(meta.expected, 0), num(meta.confirmed, 0)
local limits = hash('limits')

local keys, records = {}, {}

local function quiet()
  local till = born + lease + step
  if confirmed < expected then till = till + kept end
  return max(0, till - clock)
end

local function key_of(key)
  local k = keys[key]
  if k then return k end
  local at = prefix .. 'k:' .. key
  local sums = call('HMGET', at, '#held', '#absent', '#waits', '#contended', '#limits', '#n', '#settled')
  k = {at = at, held = num(sums[1], 0), absent = num(sums[2], 0), waits = num(sums[3], 0),
       contended = sums[4] == '1', n = num(sums[6], 0), settled = num(sums[7], -INF), limits = {}, entries = {}, changed = {}}
  for limit, n in string.gmatch(sums[5] or '', '([^:,]+):(%d+)') do k.limits[num(limit)] = tonumber(n) end
  keys[key] = k
  return k
end

local function parse(packed)
  local held, need, counted, turn, told, limit, weight =
    string.match(packed, '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$')
  return {held = num(held), need = num(need), counted = num(counted), turn = num(turn), told = num(told),
          limit = num(limit), weight = num(weight)}
end

local function entry_of(key, member)
  local k = key_of(key)
  local e = k.entries[member]
  if e == nil and not k.whole then
    local packed = call('HGET', k.at, member)
    e = packed and parse(packed) or false
    k.entries[member] = e
  end
  return e or nil
end

local function entries_of(key)
  local k = key_of(key)
  if not k.whole then
    local flat = call('HGETALL', k.at)
    for i = 1, #flat, 2 do
      local member = flat[i]
      if string.sub(member, 1, 1) ~= '#' and k.entries[member] == nil then
        k.entries[member] = parse(flat[i + 1])
      end
    end
    k.whole = true
  end
  return k.entries
end

local function record_of(member)
  local r = records[member]
  if r == nil then
    local f = hash('m:' .. member)
    r = f.fence and {fence = num(f.fence), seq = num(f.seq), kept = num(f.kept), weight = num(f.weight),
      members = num(f.members), born = num(f.born), absent = f.absent == '1', label = f.label} or false
    if r then
      r.keys = call('SMEMBERS', prefix .. 'mk:' .. member)
      r.news = {}
    end
    records[member] = r
  end
  return r or nil
end

local function is_absent(member)
  local r = records[member]
  if r ~= nil then return r and r.absent end
  return call('HGET', prefix .. 'm:' .. member, 'absent') == '1'
end

local function announce(k, limit, more)
  local left = (k.limits[limit] or 0) + more
  k.limits[limit] = left > 0 and left or nil
  k.dirty = true
end

local function limit_of(key)
  local fixed = limits[key] or (key ~= '' and limits['*'])
  if fixed then return num(fixed) end
  local least = INF
  for limit in pairs(key_of(key).limits) do least = min(least, limit) end
  return least
end

local function touch(touched, key, freed)
  if touched[key] == nil then touched[#touched + 1] = key end
  touched[key] = touched[key] or freed
end

local function with_all(list)
  local found = {''}
  for _, key in ipairs(list) do found[#found + 1] = key end
  return found
end

-- places

local function entry_for(key, member, limit, weight)
  local k, e = key_of(key), entry_of(key, member)
  if not e then
    if k.n == 0 then call('SADD', prefix .. 'keys', key) end
    e = {held = 0, need = 0, counted = 0, turn = clock, told = -1, limit = limit, weight = weight}
    k.entries[member], k.n = e, k.n + 1
    announce(k, limit, 1)
    if key ~= '' then call('SADD', prefix .. 'mk:' .. member, key) end
  elseif e.limit ~= limit then
    announce(k, e.limit, -1)
    announce(k, limit, 1)
    e.limit = limit
  end
  e.weight = weight
  k.changed[member] = true
  return e
end

local function set(key, member, absent, held, need)
  local k, e = key_of(key), entry_of(key, member)
  local waited, waits = max(0, e.need - e.held), max(0, need - held)
  if held ~= e.held or (waits > 0 and waited == 0 and held == 0) then e.turn = clock end
  if absent then k.absent = k.absent + held - e.held end
  k.held, k.waits = k.held + held - e.held, k.waits + waits - waited
  e.held, e.need = held, need
  k.changed[member], k.dirty = true, true
end

local function put(member, absent, key, held, need, counted)
  local e, in_all = entry_of(key, member), entry_of('', member)
  local more, counted_more = held - e.held, counted - e.counted
  e.counted = counted
  set(key, member, absent, held, need)
  if more ~= 0 or counted_more ~= 0 then
    set('', member, absent, in_all.held + more, in_all.need + counted_more)
  end
end

local function drop(member, r, key)
  if key ~= '' then
    put(member, r.absent, key, 0, 0, 0)
    call('SREM', prefix .. 'mk:' .. member, key)
  end
  local k = key_of(key)
  announce(k, entry_of(key, member).limit, -1)
  k.entries[member], k.changed[member], k.n = false, true, k.n - 1
  call('SREM', prefix .. 'mn:' .. member, key)
  if k.n == 0 then
    k.contended = false
    call('SREM', prefix .. 'keys', key)
  end
end

local function remove(member, r)
  for _, key in ipairs(r.keys) do drop(member, r, key) end
  drop(member, r, '')
  call('DEL', prefix .. 'm:' .. member, prefix .. 'mk:' .. member, prefix .. 'mn:' .. member)
  call('ZREM', prefix .. 'ends', member)
  records[member] = false
end

-- shares: see core/shares.py

local function rank_before(a, b)
  if a.rank ~= b.rank then return a.rank < b.rank end
  if a.turn ~= b.turn then return a.turn < b.turn end
  return a.member < b.member
end
local function modest_before(a, b)
  local x, y = a.need / a.weight, b.need / b.weight
  if x ~= y then return x < y end
  return a.member < b.member
end

local function shares_of(key, interval)
  local k, list, weight = key_of(key), {}, 0
  for member, e in pairs(entries_of(key)) do
    if e and not (k.absent > 0 and is_absent(member)) then
      list[#list + 1] = {member = member, held = e.held, need = e.need, weight = e.weight, turn = e.turn}
      weight = weight + e.weight
    end
  end
  local found, rest, left = {}, {}, max(0, limit_of(key) - k.absent)
  table.sort(list, modest_before)
  for _, one in ipairs(list) do
    if #rest == 0 and one.need * weight <= left * one.weight then
      found[one.member] = one.need
      left, weight = left - one.need, weight - one.weight
    else
      rest[#rest + 1] = one
    end
  end
  if #rest > 0 then
    local spare, settled = floor(left), true
    for _, one in ipairs(rest) do
      one.share = floor(left * one.weight / weight)
      spare = spare - one.share
      settled = settled and one.share > 0
    end
    for _, one in ipairs(rest) do
      found[one.member] = one.share
      if one.held <= one.share then one.rank = 1
      else one.rank = (settled or clock - one.turn < interval) and 0 or 2 end
    end
    table.sort(rest, rank_before)
    for i = 1, min(spare, #rest) do found[rest[i].member] = found[rest[i].member] + 1 end
  end
  return found, list
end

-- who else is concerned

local function tell(member, key, target)
  local e = entry_of(key, member)
  if e.told ~= target then
    e.told = target
    key_of(key).changed[member] = true
    call('SADD', prefix .. 'mn:' .. member, key)
    publish(prefix .. 'to:' .. member, key)
  end
end

local function settle(key, caller, freed)
  local k = key_of(key)
  local own = caller and entry_of(key, caller)
  local target = own and own.held or 0
  local free = limit_of(key) - k.held
  local contended = k.waits > 0
  local contended_before = k.contended
  local began = contended and not contended_before
  if contended ~= k.contended then k.contended, k.dirty = contended, true end
  local was_told = own and own.told or -1
  if own and own.told ~= target then
    own.told = target
    k.changed[caller] = true
  end
  if free == INF or quiet() > 0 or (free >= 0 and k.waits == 0) then return target end
  if not freed and not began and free >= 0 then
    if free >= k.waits then return target end
    if clock - k.settled < step / 4 then
      if contended_before and 0 <= was_told and was_told < target and own then
        own.told, target = was_told, was_told
        k.changed[caller] = true
      end
      return target
    end
  end
  k.settled, k.dirty = clock, true
  local mine, list = shares_of(key, step)
  local short = -free
  table.sort(list, function(a, b) return a.member < b.member end)
  for _, one in ipairs(list) do
    local lacks = mine[one.member] - one.held
    if lacks > 0 then
      short = short + lacks
      if freed and free > 0 and one.member ~= caller then tell(one.member, key, mine[one.member]) end
    end
  end
  table.sort(list, function(a, b)
    local x, y = mine[a.member] - a.held, mine[b.member] - b.held
    if x ~= y then return x < y end
    return a.member < b.member
  end)
  for _, one in ipairs(list) do
    local more = min(one.held - mine[one.member], short)
    if more > 0 then
      short = short - more
      if one.member == caller then
        target = one.held - more
        own.told = target
        k.changed[caller] = true
      else
        tell(one.member, key, one.held - more)
      end
    elseif began and one.held > 0 and one.member ~= caller then
      entry_of(key, one.member).told = -1
      tell(one.member, key, one.held)
    end
  end
  return target
end

local function settle_others(touched, caller)
  for _, key in ipairs(touched) do
    if touched[key] ~= 'done' and key_of(key).n > 0 then settle(key, caller, touched[key]) end
  end
end

local function flush()
  for _, k in pairs(keys) do
    if k.n == 0 then
      call('DEL', k.at)
    else
      local fields, gone = {}, {}
      for member in pairs(k.changed) do
        local e = k.entries[member]
        if e then
          fields[#fields + 1] = member
          fields[#fields + 1] = table.concat({text(e.held), text(e.need), text(e.counted), text(e.turn),
            text(e.told), text(e.limit), text(e.weight)}, ' ')
        else
          gone[#gone + 1] = member
        end
      end
      if k.dirty then
        local said = {}
        for limit, n in pairs(k.limits) do said[#said + 1] = text(limit) .. ':' .. n end
        for _, field in ipairs({'#held', text(k.held), '#absent', text(k.absent), '#waits', text(k.waits),
          '#contended', k.contended and '1' or '0', '#limits', table.concat(said, ','), '#n', text(k.n), '#settled', text(k.settled)}) do
          fields[#fields + 1] = field
        end
      end
      if #gone > 0 then call('HDEL', k.at, unpack(gone)) end
      for i = 1, #fields, 2000 do
        call('HSET', k.at, unpack(fields, i, min(i + 1999, #fields)))
      end
    end
  end
end

local function save()
  call('HSET', KEYS[1], 'version', '1', 'epoch', epoch, 'clock', text(clock), 'wall', text(wall),
    'born', text(born), 'step', text(step), 'lease', text(lease), 'kept', text(kept), 'fences', text(fences),
    'expected', text(expected), 'confirmed', text(confirmed))
end

local function count() return call('ZCARD', prefix .. 'ends') end

-- what is set and what is shown

if ARGV[1] == 'limit' then
  if ARGV[3] == '' then
    call('HDEL', prefix .. 'limits', ARGV[2])
    limits[ARGV[2]] = nil
  else
    call('HSET', prefix .. 'limits', ARGV[2], ARGV[3])
    limits[ARGV[2]] = ARGV[3]
  end
  local touched = {}
  for _, key in ipairs(call('SMEMBERS', prefix .. 'keys')) do touch(touched, key, true) end
  settle_others(touched, nil)
  flush()
  return 'ok'
end

if ARGV[1] == 'status' then
  local now = clock
  if meta.version then now = clock + min(max(0, wall - old_wall), step) end
  local members, held = {}, {}
  local ends = call('ZRANGE', prefix .. 'ends', 0, -1, 'WITHSCORES')
  for i = 1, #ends, 2 do
    local r, e = record_of(ends[i]), entry_of('', ends[i])
    members[#members + 1] = {name = ends[i], label = r.label, fence = r.fence, weight = r.weight,
      left = num(ends[i + 1]) - now, absent = r.absent, held = e and e.held or 0,
      waiting = e and max(0, e.need - e.held) or 0}
  end
  for _, key in ipairs(call('SMEMBERS', prefix .. 'keys')) do
    local k = key_of(key)
    held[#held + 1] = {key = key, held = k.held, waiting = k.waits, members = k.n, limit = text(limit_of(key))}
  end
  return cjson.encode({exists = meta.version ~= nil, members = members, keys = held, limits = limits,
    quiet = meta.version and max(0, quiet() - (now - clock)) or 0})
end

-- a member's call

local member, fence, seq, base = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local whole, known, leaves = ARGV[6] == '1', tonumber(ARGV[7]), ARGV[8] == '1'
local its_interval, its_lease, its_kept = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local its_weight, its_most, label = tonumber(ARGV[12]), num(ARGV[13]), ARGV[14]
local claims = {}
for i = 15, #ARGV, 5 do
  claims[#claims + 1] = {key = ARGV[i], limit = num(ARGV[i + 1]), held = tonumber(ARGV[i + 2]),
    need = tonumber(ARGV[i + 3]), ask = tonumber(ARGV[i + 4])}
end

step, lease, kept = max(step, its_interval), max(lease, its_lease), max(kept, its_kept)
if meta.epoch then clock = clock + min(max(0, wall - old_wall), step) end
if epoch ~= meta.epoch then born, expected, confirmed = clock, count(), 0 end

local touched = {}
for _, gone in ipairs(call('ZRANGEBYSCORE', prefix .. 'ends', '-inf', text(clock), 'LIMIT', 0, 100)) do
  local r = record_of(gone)
  local ends = num(call('ZSCORE', prefix .. 'ends', gone))
  touch(touched, '', true)
  for _, key in ipairs(r.keys) do touch(touched, key, true) end
  if r.kept > 0 and not r.absent then
    for _, key in ipairs(r.keys) do
      local e = entry_of(key, gone)
      local share = floor(max(e.limit, num(limits[key] or limits['*'], 0)) / r.members)
      put(gone, false, key, min(e.held, share), 0, 0)
    end
    r.absent = true
    ends = ends + r.kept
    call('HSET', prefix .. 'm:' .. gone, 'absent', '1')
    call('ZADD', prefix .. 'ends', text(ends), gone)
    for _, key in ipairs(with_all(r.keys)) do
      local k = key_of(key)
      k.absent, k.dirty = k.absent + entry_of(key, gone).held, true
    end
  end
  if ends <= clock then remove(gone, r) end
end

local function answer(status, number, members, silence, rows)
  settle_others(touched, member)
  flush()
  save()
  local reply = {status, number, members, text(silence)}
  for _, row in ipairs(rows) do
    for i = 1, 6 do reply[#reply + 1] = row[i] end
  end
  return reply
end

local r = record_of(member)
if r and seq <= r.seq then return answer('old', 0, 0, 0, {}) end
local in_step = r and base == r.seq and r.born == born and not r.absent
if not whole and not in_step then return answer('whole', 0, 0, 0, {}) end
if not r then
  fences = fences + 1
  r = {fence = fences, seq = 0, kept = 0, weight = its_weight, members = 1, born = -1, absent = false,
    keys = {}, news = {}}
  records[member] = r
  entry_for('', member, its_most, its_weight)
end
if leaves then
  touch(touched, '', true)
  for _, key in ipairs(r.keys) do touch(touched, key, true) end
  remove(member, r)
  return answer('ok', r.fence, count(), 0, {})
end

if r.absent then
  r.absent = false
  for _, key in ipairs(with_all(r.keys)) do
    local k = key_of(key)
    k.absent, k.dirty = k.absent - entry_of(key, member).held, true
  end
end
if r.born ~= born then
  r.born = born
  confirmed = confirmed + 1
end
expected = max(expected, known)
call('ZADD', prefix .. 'ends', text(clock + its_lease + step), member)
local members = count()
r.members = max(1, min(known > 0 and known or 1, members))
call('HSET', prefix .. 'm:' .. member, 'fence', r.fence, 'seq', text(seq), 'kept', text(its_kept),
  'weight', its_weight, 'members', text(r.members), 'born', text(r.born), 'absent', '0', 'label', label)
r.seq = seq
local silence = quiet()

if whole then
  local told = {}
  for _, claim in ipairs(claims) do told[claim.key] = true end
  for _, key in ipairs(r.keys) do
    if not told[key] then
      touch(touched, key, true)
      touch(touched, '', true)
      drop(member, r, key)
    end
  end
end
for _, claim in ipairs(claims) do
  local e = entry_for(claim.key, member, claim.limit, its_weight)
  local before, needed = e.held, e.need
  local held = silence > 0 and claim.held or min(claim.held, before)
  put(member, false, claim.key, held, claim.need, min(claim.need, held))
  if held ~= before or claim.need ~= needed or claim.need > held then
    touch(touched, claim.key, held < before)
    touch(touched, '', held < before)
  end
  if held <= 0 and claim.need <= 0 and claim.ask <= 0 then drop(member, r, claim.key) end
end

local function room(key, most)
  local k, e = key_of(key), entry_of(key, member)
  local free = limit_of(key) - k.held
  if free <= 0 then return 0 end
  if free >= k.waits then return min(most, free - k.waits + max(0, e.need - e.held)) end
  return max(0, min(most, free, shares_of(key, its_interval)[member] - e.held))
end
if silence == 0 then
  for _, claim in ipairs(claims) do
    local e = entry_of(claim.key, member)
    if e and (claim.ask > claim.held or claim.need > claim.held) then
      local held = e.held
      local most = room(claim.key, max(claim.ask, claim.need) - held)
      if most > 0 then
        put(member, false, claim.key, held, claim.need, min(claim.need, held + most))
        most = room('', most)
        put(member, false, claim.key, held + most, claim.need, e.counted)
      end
    end
  end
end

local rows, seen = {}, {}
local function add(key, news)
  if seen[key] then return end
  seen[key] = true
  local e = entry_of(key, member)
  if not e then
    rows[#rows + 1] = {key, 0, 0, 0, 'inf', 0}
    return
  end
  local k, limit, target = key_of(key), limit_of(key), e.held
  local flags = (k.waits > 0 and 1 or 0) + ((k.held > limit and silence == 0) and 2 or 0)
  if (k.waits > 0 or k.held > limit) and 0 <= e.told and e.told < target then target = e.told end
  if touched[key] ~= nil or news then
    target = settle(key, member, touched[key] or false)
    touched[key] = 'done'
  end
  rows[#rows + 1] = {key, e.held, target, flags, text(limit), k.held}
end
local news = call('SMEMBERS', prefix .. 'mn:' .. member)
local has_news = {}
for _, key in ipairs(news) do has_news[key] = true end
for _, claim in ipairs(claims) do add(claim.key, has_news[claim.key]) end
for _, key in ipairs(news) do add(key, true) end
add('', has_news[''])
if #news > 0 then call('DEL', prefix .. 'mn:' .. member) end
return answer('ok', r.fence, members, silence, rows)
