"""Wrong policies: each breaks one rule of `whimbrel._policy` in one way.

What is changed must stand there exactly once. Where it does not any more, the mutant is stale, as the check says, and
is to be written anew for the code as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change to the policy's source."""

    rule: int
    """As the policy's docstring numbers them; 0: what holds for all of them."""
    breaks: str
    """What it does instead of the rule."""
    text: str
    instead: str


MUTANTS: Final = (
    # 0: what all rules stand on.
    Mutant(0, "acts after it has given up", "        if isinstance(self._state, GivenUp):\n            return []", ""),
    Mutant(
        0,
        "never says when it is to be called",
        "return max(now, earliest) if earliest < math.inf else None",
        "return None",
    ),
    Mutant(
        0,
        "probes as often as the network changes",
        "        if now < self._next_probe():\n            return False\n",
        "",
    ),
    Mutant(0, "asks no networks together", "(PROBE_BURST - 1) / PROBE_RATE", "0 / PROBE_RATE"),
    # 1: Ask before moving.
    Mutant(
        1,
        "moves to a preferred network without asking",
        "        if self._server_silent:\n            return self._move_with_new_id(",
        "        if True:\n            return self._move_with_new_id(",
    ),
    Mutant(
        1,
        "stays, though the preferred network answers",
        "return report + self._move_with_new_id(route, probing.reason, True, facts, now)",
        "return report",
    ),
    Mutant(
        1,
        "wants no other network",
        "if _carries(self.routes[0], self.active):\n            return None",
        "if True:\n            return None",
    ),
    Mutant(1, "wants the least preferred", 'return self.routes[0], "returned"', 'return self.routes[-1], "returned"'),
    Mutant(
        1,
        "believes answers of networks that it does not ask any more",
        "if any(a.route == route for a in asked):",
        "if True:",
    ),
    Mutant(
        1,
        "goes on asking when the network is not preferred any more",
        "if wish is None or wish[0] not in {a.route for a in asked}:",
        "if wish is None:",
    ),
    Mutant(1, "follows each flap", "after = max(after, self._preferred_since + hold)", "pass"),
    Mutant(
        1,
        "holds a flapping network off for as long each time",
        "FLAP_HOLD[0] * 2 ** min(flaps.count - 1, 10)",
        "FLAP_HOLD[0]",
    ),
    Mutant(1, "never forgets a flap", "if now - f.last < FLAP_MEMORY}", "}"),
    Mutant(
        1,
        "moves linkably at once",
        "        if facts.spare_ids > 0:\n            return self._move(route, reason",
        "        if True:\n            return self._move(route, reason",
    ),
    Mutant(
        1,
        "waits for a connection ID for ever",
        "AwaitingId(route, reason, proven, now + min(ID_WAIT, 3 * facts.pto))",
        "AwaitingId(route, reason, proven, math.inf)",
    ),
    Mutant(1, "does not see that one has come", "if facts.spare_ids > 0 or self._suspect:", "if self._suspect:"),
    Mutant(
        1,
        "waits for a connection ID in a silence",
        "if facts.spare_ids > 0 or self._suspect:",
        "if facts.spare_ids > 0:",
    ),
    # 2: A dead path is left at once.
    Mutant(
        2,
        "does not see that its route is gone",
        "if self._settings.auto and not self._is_there(self.active):",
        "if False:",
    ),
    Mutant(
        2,
        "asks before it leaves a route that is gone",
        '            return self._move(self._best(usable or self.routes), "dead", facts, now)',
        '            self._state = Probing("preferred", tuple(Asked(r, 0, now) for r in self.routes))',
    ),
    Mutant(
        2,
        "stays where the kernel refuses to send",
        "if route == self.active and number in DEAD:\n                return self._refused(facts, now)",
        "if False:\n                return self._refused(facts, now)",
    ),
    Mutant(
        2, "takes every refusal for death", "if route == self.active and number in DEAD:", "if route == self.active:"
    ),
    Mutant(
        2, "takes a refusal elsewhere for its own", "if route == self.active and number in DEAD:", "if number in DEAD:"
    ),
    Mutant(
        2,
        "hops from refusal to refusal",
        "        usable = [r for r in others if not self._paused(r, now)]\n        if usable:",
        "        usable = others\n        if usable:",
    ),
    Mutant(
        2,
        "goes on asking where the kernel refuses to send",
        "kept = tuple(a for a in asked if a.route != route)",
        "kept = asked",
    ),
    Mutant(
        2,
        "leaves a dead path for one that just failed",
        "usable = [r for r in self.routes if not self._paused(r, now)]",
        "usable = list(self.routes)",
    ),
    # 3: Three probes, and pauses that grow.
    Mutant(3, "asks for ever", "elif not a.is_exhausted:", "elif True:"),
    Mutant(3, "asks once", "elif not a.is_exhausted:", "elif a.sent < 1:"),
    Mutant(
        3,
        "asks again at once",
        "self._pauses[route] = Pause(now + length, length",
        "self._pauses[route] = Pause(now, length",
    ),
    Mutant(
        3,
        "pauses as long each time",
        "max(first, 2 * old.length)) if old is not None and recent else first",
        "first) if old is not None and recent else first",
    ),
    Mutant(
        3,
        "pauses longer and longer, without bound",
        "min(longest, max(first, 2 * old.length))",
        "max(first, 2 * old.length)",
    ),
    Mutant(
        3, "never forgets how long it paused", "old is not None and now < old.until + 2 * old.length", "old is not None"
    ),
    Mutant(
        3,
        "waits for its pause, though the network changed",
        "        if not self._server_silent:\n            self._end_pauses(now, lossy=False)\n",
        "",
    ),
    Mutant(
        3,
        "does not wait for its pause",
        "or now < self._wish_after(*wish):\n            return []",
        "or False:\n            return []",
    ),
    Mutant(3, "does not wait longer for each answer", "* 2.0**sent, PROBE_WAIT[1])", ", PROBE_WAIT[1])"),
    Mutant(3, "gives a slow network no time for the last answer", "        return LAST_WAIT\n", "        pass\n"),
    # 4: A move that brings nothing back is taken back.
    Mutant(
        4,
        "stays where nothing comes back",
        'return actions + self._move(back, "rolled-back", facts, now)',
        "return actions + self._steady(facts, now)",
    ),
    Mutant(
        4,
        "takes a move back at once",
        "        if now < settling.until:\n            return []\n        if facts.reached",
        "        if facts.reached",
    ),
    Mutant(4, "goes back, though a packet came", "if facts.heard > settling.since:", "if False:"),
    Mutant(
        4,
        "takes what came before the move for an answer",
        "if facts.heard > settling.since:",
        "if facts.heard > -math.inf:",
    ),
    Mutant(
        1,
        "does not let what is under way arrive first",
        "return min(late + REST_MARGIN, LONGEST_REST) if late > -REST_MARGIN else 0.0",
        "return 0.0",
    ),
    Mutant(
        1,
        "rests though the path is as fast",
        "if late > -REST_MARGIN else 0.0",
        "if late > -math.inf else 0.0",
    ),
    Mutant(
        2,
        "rests though the old path is gone",
        "self._rest(route, facts) if worked else 0.0",
        "self._rest(route, facts)",
    ),
    Mutant(
        4,
        "waits in vain for a peer that lost our answer",
        "if facts.reached > settling.since and not settling.anew:",
        "if False:",
    ),
    Mutant(
        4,
        "enters the same network again and again",
        "if facts.reached > settling.since and not settling.anew:",
        "if facts.reached > settling.since:",
    ),
    Mutant(
        4,
        "leaves no time for the answer of a slow network",
        "if now < (until := min(until, settling.since + 2 * PATIENCE[1])):",
        "if False:",
    ),
    Mutant(
        4,
        "waits as long as the peer asks",
        "if now < (until := min(until, settling.since + 2 * PATIENCE[1])):",
        "if now < until:",
    ),
    Mutant(
        4,
        "forgets the way back when it enters anew",
        "replace(self._state, fallback=settling.fallback, anew=True)",
        "replace(self._state, anew=True)",
    ),
    Mutant(
        4,
        "lets a peer wait that asked once, in vain",
        "self._ask_active(now) if self._revival(facts)",
        "[] if self._revival(facts)",
    ),
    Mutant(
        4,
        "asks where it moved to in vain, each time",
        " and now >= self._revive_after else []",
        " else []",
    ),
    Mutant(
        4,
        "goes back to a network that is gone",
        "if back is not None and self._is_there(back) and (",
        "if back is not None and (",
    ),
    Mutant(
        4,
        "goes back to a path that did not work",
        "self._state = Settling(left if worked else None,",
        "self._state = Settling(left,",
    ),
    Mutant(
        4,
        "tries again at once what it took back",
        'self._reject(self.active, "no-answer", now, ROLLED_BACK_PAUSE)',
        'self._reject(self.active, "no-answer", now)',
    ),
    Mutant(
        4,
        "has no patience for a slow network",
        "max(3 * facts.pto, 3 * self._rtts.get(route, 0.0), PATIENCE[0])",
        "PATIENCE[0]",
    ),
    Mutant(4, "has patience for ever", "PATIENCE[0]), PATIENCE[1])", "PATIENCE[0]), math.inf)"),
    Mutant(
        4,
        "does not see that a new path without a way back is silent",
        "        self._suspect_active(facts, now)\n        asked",
        "        asked",
    ),
    # 5: Silence.
    Mutant(5, "does not hear silence", "        if not facts.due:\n", "        if True:\n"),
    Mutant(
        5,
        "hears silence where nothing is due",
        "        if not facts.due:\n            self._watch = Quiet()\n            return []\n",
        "",
    ),
    Mutant(
        5,
        "leaves a path that answers the PING",
        "if isinstance(self._watch, Pinged) and facts.heard > self._watch.first:",
        "if False:",
    ),
    Mutant(
        5,
        "never suspects a path",
        "min(2 * wait, LONGEST_PING), interval, hasty, True)",
        "min(2 * wait, LONGEST_PING), interval, False)",
    ),
    Mutant(
        5,
        "suspects a path at the first PING",
        "self._watch = Pinged(now, now, _two_ptos(facts), interval)\n",
        "self._watch = Pinged(now, now, _two_ptos(facts), interval, suspect=True)\n",
    ),
    Mutant(
        5,
        "asks no network that appears in a silence",
        "asked += [Asked(r, 0, now) for r in self._askable(now) if r not in known]",
        "pass",
    ),
    Mutant(5, "asks those in vain first whom it might trust", "and not trust_first", ""),
    Mutant(
        5, "asks nobody again in a silence", "and now >= self._leap_after\n        return not", "\n        return not"
    ),
    Mutant(
        5,
        "asks in a silence only what is preferred",
        "if self._suspect and self._may_search(facts) and not (self._server_silent and self._requested):",
        "if False:",
    ),
    Mutant(
        5,
        "moves in a silence that is over",
        "            if not self._suspect:  # It is soon",
        "            if False:  # It is soon",
    ),
    Mutant(
        5,
        "asks the living path as often as a silent one",
        "min(LONGEST_PING, 2 * pinged.interval) if prompt else silence",
        "silence",
    ),
    Mutant(5, "never asks the silent path itself", "        return [Probe(self.active)]\n", "        return []\n"),
    Mutant(
        5,
        "asks the silent path all the time",
        "self._revive_after = now + REVIVAL[0]\n        return [Probe",
        "return [Probe",
    ),
    Mutant(
        5,
        "does not go on where the silent path answers",
        "ProbeAnswered(route) if route == self.active and self._suspect and self._may_search(facts):",
        "ProbeAnswered(route) if False:",
    ),
    Mutant(5, "moves to the silent path anew each time", "self._revive_after = now + self._revive_pause\n", "pass\n"),
    Mutant(
        5,
        "postpones its question with each write",
        "since = now if facts.heard > self._watch.since else self._watch.since",
        "since = now",
    ),
    Mutant(
        5, "swaps two bad networks all the time", "self._end_pauses(now, spare=FLAP_MEMORY)", "self._end_pauses(now)"
    ),
    Mutant(
        5,
        "does not see a flow break off",
        "                if now >= self._broken_off(facts):",
        "                if False:",
    ),
    Mutant(5, "asks once in a broken flow", "if hasty and last == first:", "if False:"),
    Mutant(5, "has no patience with breaks", "BREAK * self._settings.silence", "0.025"),
    Mutant(5, "takes every pause for a break", "facts.heard < facts.flowing + self._flow", "False"),
    Mutant(5, "asks nobody beside the PING", "if self._in_doubt and self._may_search(facts)", "if False"),
    Mutant(5, "forgets who answered beside the PING", "if self._suspect and (answered :=", "if False and (answered :="),
    Mutant(5, "takes breaks for silence for ever", "self._flow = min(FLOW[1], 2 * self._flow)", "pass"),
    # 6: A preferred network that carries nothing.
    Mutant(
        6,
        "forgets that it left a network because of its silence",
        "            self._penalise(self.active, now, left=True, lossy=self._lossy_spans > 0)\n",
        "            pass\n",
    ),
    Mutant(
        6,
        "never returns",
        'return self.routes[0], "returned" if',
        'return None if pause is not None and pause.left else self.routes[0], "returned" if',
    ),
    Mutant(
        6,
        "takes a return for a first visit",
        '"returned" if pause is not None and pause.left else "preferred"',
        '"preferred"',
    ),
    Mutant(
        6,
        "counts a later move as a return too",
        "self._pauses[self.active] = replace(self._pauses[self.active], left=False, lossy=False)",
        "pass",
    ),
    # 7: No network.
    Mutant(
        7,
        "does not hold",
        "return [Hold(), Report(NetworkLost())]",
        "return [Report(NetworkLost())]",
    ),
    Mutant(
        7,
        "does not tell that there is no network",
        "return [Hold(), Report(NetworkLost())]",
        "return [Hold()]",
    ),
    Mutant(7, "holds for ever", "if now >= held.since + self._settings.outage:", "if False:"),
    Mutant(7, "gives up at once", "if now >= held.since + self._settings.outage:", "if True:"),
    Mutant(7, "does not say when it will give up", "times.append(since + self._settings.outage)", "pass"),
    Mutant(
        7,
        "lets the clock stand still",
        'return [Resume(route), *self._move(route, "restored", facts, now), restored]',
        'return [*self._move(route, "restored", facts, now), restored]',
    ),
    Mutant(
        7,
        "does not tell that the network is back",
        'self._move(route, "restored", facts, now), restored]',
        'self._move(route, "restored", facts, now)]',
    ),
    Mutant(
        7,
        "goes on by the path that the server has given up",
        'return [Resume(route), *self._move(route, "restored", facts, now), restored]',
        "self.active = route\n        return [Resume(route), Ping(), restored]",
    ),
    # 8: The peer forbids moving.
    Mutant(
        8,
        "moves to a preferred network all the same",
        "if wish is None or facts.peer_forbids or now",
        "if wish is None or now",
    ),
    Mutant(
        8,
        "moves from a dead path all the same",
        "            if not self.routes or facts.peer_forbids:\n",
        "            if not self.routes:\n",
    ),
    Mutant(
        8,
        "moves in a silence all the same",
        'self._settings.sockets == "pinned" and not facts.peer_forbids',
        'self._settings.sockets == "pinned"',
    ),
    Mutant(
        8,
        "moves when the kernel refuses to send all the same",
        "if facts.peer_forbids or not self._settings.auto or self.active is None or self._suspect:",
        "if not self._settings.auto or self.active is None or self._suspect:",
    ),
    Mutant(
        8,
        "moves at the user's wish all the same",
        'if facts.peer_forbids or self._settings.sockets == "unconnected":',
        'if self._settings.sockets == "unconnected":',
    ),
    Mutant(
        8,
        "follows the kernel all the same",
        "or not self._settings.auto or facts.peer_forbids:\n            return False",
        "or not self._settings.auto:\n            return False",
    ),
    Mutant(8, "takes up another path after an outage", "if not forbidden or r == held.route]", "]"),
    # 9: Nothing before the handshake is confirmed.
    Mutant(9, "moves before the handshake is confirmed", "        if facts.confirmed:\n", "        if True:\n"),
    Mutant(9, "forgets what was asked for before", "            self._waiting_request = event\n", "            pass\n"),
    # 10: Servers that answer no probes.
    Mutant(
        10,
        "never finds out whether the server answers",
        "actions += [ControlProbe(self.active), Ping()]\n",
        "pass\n",
    ),
    Mutant(
        10,
        "does not let an idle connection find that out",
        "[ControlProbe(self.active), Ping()]",
        "[ControlProbe(self.active)]",
    ),
    Mutant(10, "finds that out again and again", "                self._control_asked = True\n", ""),
    Mutant(
        10,
        "asks a path that is silent",
        "return not known and not self._suspect and facts.heard > -math.inf",
        "return not known and facts.heard > -math.inf",
    ),
    Mutant(10, "asks a silent server all the same", "self._server_silent = True\n", "pass\n"),
    Mutant(
        10,
        "takes a server for silent that has answered",
        "if route == self.active and not self._server_answers:",
        "if route == self.active:",
    ),
    Mutant(
        10,
        "does not believe a late answer",
        "self._server_answers, self._server_silent = True, False",
        "self._server_answers = True",
    ),
    Mutant(
        10,
        "trusts no network in a silence",
        "if others and not self._server_answers and now >= self._leap_after:",
        "if False:",
    ),
    Mutant(
        10,
        "trusts though the server would have answered",
        "if others and not self._server_answers and now >= self._leap_after:",
        "if others and now >= self._leap_after:",
    ),
    Mutant(10, "leaps from network to network", "self._leap_after = now + self._leap_pause\n", "pass\n"),
    Mutant(10, "leaps back to where it has just been", "longest_left = min(others", "longest_left = max(others"),
    # 11: Connection.migrate.
    Mutant(11, "does nothing when asked to move", "        self._requested = wanted\n", "        pass\n"),
    Mutant(
        11,
        "goes where the kernel points right after",
        "        self._requested, self._chosen = None, True\n        return [Accepted(self.active)]\n\n    def _not",
        "        self._requested = None\n        return [Accepted(self.active)]\n\n    def _not",
    ),
    Mutant(
        11,
        "holds to the user's choice for ever",
        "        self._chosen = False\n        if isinstance(self._watch, Listening):",
        "        if isinstance(self._watch, Listening):",
    ),
    Mutant(
        11,
        "moves anew to where it is",
        "            self._requested, self._chosen = None, True\n            return [Accepted(wanted)]",
        "            pass",
    ),
    Mutant(
        11,
        "does not say that there is no such way",
        'or isinstance(self._state, Held):\n            return [Refuse("no-route")]',
        "or isinstance(self._state, Held):\n            return []",
    ),
    Mutant(11, "does not say that nobody answered", "            actions.append(Refuse(reason))\n", ""),
    Mutant(
        11,
        "waits for a pause that the user cannot know",
        '        if reason == "requested":\n            return -math.inf\n',
        "",
    ),
    Mutant(
        11,
        "goes on after the request was cancelled",
        "                self._requested = self._waiting_request = None\n",
        "                pass\n",
    ),
    Mutant(
        11,
        "says nothing when the network goes that was asked for",
        '            return [Refuse("no-route")]\n        return []\n\n    # Is the active',
        "            return []\n        return []\n\n    # Is the active",
    ),
    Mutant(
        11, "does not say that no connection ID was left", 'return [Refuse("connection-ids-exhausted")]', "return []"
    ),
    # 12: The same way, by another name.
    Mutant(
        12,
        "takes another address of the interface for another network",
        "return used is not None and (route == used or (route.index == used.index and used.source in route.addresses))",
        "return used is not None and route == used",
    ),
    Mutant(
        12,
        "goes on from an address that is gone",
        "route.index == used.index and used.source in route.addresses",
        "route.index == used.index",
    ),
    Mutant(
        12,
        "goes on by an interface that has the address of another",
        "route.index == used.index and used.source in route.addresses",
        "used.source in route.addresses",
    ),
    Mutant(
        12,
        "does not learn an interface's new name",
        "        self.active = next((r for r in routes if r == self.active), self.active)\n",
        "",
    ),
    Mutant(
        12,
        "moves anew when its way was gone for a blink",
        "blink = route == held.route and now < held.since + BLINK",
        "blink = False",
    ),
    Mutant(
        12,
        "goes on by an old path after any outage",
        "blink = route == held.route and now < held.since + BLINK",
        "blink = route == held.route",
    ),
    Mutant(
        12,
        "goes on as if nothing had been on another network",
        "blink = route == held.route and now < held.since + BLINK",
        "blink = now < held.since + BLINK",
    ),
    # 13: The machine was suspended.
    Mutant(13, "does not care that the machine slept", "return self._woke(slept, now)", "return []"),
    Mutant(13, "takes a blink of the machine for an outage", "or slept < NAP:", "or slept < 0:"),
    Mutant(
        13, "counts an outage anew when the machine wakes in it", "self._state.since - slept)", "self._state.since)"
    ),
    Mutant(13, "does not count the time asleep", "return self._hold(now - slept)", "return self._hold(now)"),
    # 14: A path that loses much.
    Mutant(14, "does not count what is lost", "            self._count_losses(facts, now)\n", ""),
    Mutant(
        14,
        "leaves a path for a little loss",
        "LOSS * (sent - span.sent) else 0",
        "0.2 * LOSS * (sent - span.sent) else 0",
    ),
    Mutant(
        14,
        "leaves a path for losses of a moment",
        "return self._lossy_spans >= LOSSY_SPANS and",
        "return self._lossy_spans >= 1 and",
    ),
    Mutant(14, "never forgets losses", "self._lossy_spans + 1 if", "self._lossy_spans + 1 if self._lossy_spans or"),
    Mutant(14, "judges by a few packets", "sent >= span.sent + LOSS_SPAN[1]", "sent > span.sent"),
    Mutant(14, "judges by a moment", "now >= span.since + LOSS_SPAN[0] and ", ""),
    Mutant(
        14,
        "holds the old path's losses against the new one",
        "        if span is None or isinstance(self._state, Settling | Held):\n",
        "        if span is None:\n",
    ),
    Mutant(
        14,
        "takes one answer for a good network",
        'lossy = reason == "lossy" or (',
        "lossy = (",
    ),
    Mutant(
        14,
        "returns to a network that lost much at its first answer",
        ' or (reason == "returned" and self._pauses[route].lossy)',
        "",
    ),
    Mutant(14, "asks five times in a row at once", "    return TRIAL_PAUSE\n", "    return 0.001\n"),
    Mutant(
        14,
        "asks a network that falls short again at once",
        "        self._penalise(route, now, first=ROLLED_BACK_PAUSE)\n",
        "",
    ),
    Mutant(
        14,
        "does not say that a network fell short",
        'return [Report(PathRejected(route.interface, "lossy"))]',
        "return []",
    ),
    Mutant(
        14,
        "swaps two bad networks",
        "            self._penalise(left, now, first=LOSSY_PAUSE[0], left=True, lossy=True)\n",
        "            pass\n",
    ),
    Mutant(
        14,
        "swaps two bad networks as often as any",
        "longest = LONGEST_PING if self._suspect else LOSSY_PAUSE[1] if lossy and answered else RETRY[1]",
        "longest = LONGEST_PING if self._suspect else RETRY[1]",
    ),
    Mutant(
        14,
        "seldom asks who lost much and answers nothing",
        "LOSSY_PAUSE[1] if lossy and answered else RETRY[1]",
        "LOSSY_PAUSE[1] if lossy else RETRY[1]",
    ),
    Mutant(
        14,
        "tries a network that lost much again whenever another comes or goes",
        "            if pause.lossy and not lossy:\n                continue\n",
        "",
    ),
    Mutant(
        14,
        "asks a preferred network five times, too",
        '            if soonest != self.routes[0]:\n                return soonest, "lossy"\n',
        '            return soonest, "lossy"\n',
    ),
    Mutant(
        14,
        "does not go back where the new path carries nothing",
        'worked = reason in ("preferred", "returned", "requested", "lossy")',
        'worked = reason in ("preferred", "returned", "requested")',
    ),
    Mutant(
        14,
        "goes on with the trial when the path falls silent",
        "anew = tuple(Asked(a.route, 0, now) if a.needed > 1 else a for a in asked)",
        "anew = tuple(asked)",
    ),
    Mutant(
        14,
        "takes one answer where much was lost before the silence",
        "left=True, lossy=self._lossy_spans > 0)",
        "left=True)",
    ),
    Mutant(
        14,
        "leaves a lossy path where nobody can be asked",
        'self._settings.sockets == "pinned" and not self._server_silent',
        'self._settings.sockets == "pinned"',
    ),
    Mutant(
        14,
        "moves sockets that the kernel routes",
        'LOSSY_SPANS and self._settings.sockets == "pinned" and not',
        "LOSSY_SPANS and not",
    ),
    # 15: Metered networks.
    Mutant(
        15,
        "takes a metered network for losses",
        "others = [r for r in self._others() if not self._is_metered(r)]",
        "others = self._others()",
    ),
    Mutant(
        15,
        "asks a metered network with the others",
        "return [r for r in askable if not self._is_metered(r)] or askable",
        "return askable",
    ),
    Mutant(
        15,
        "never asks a metered network",
        "return [r for r in askable if not self._is_metered(r)] or askable",
        "return [r for r in askable if not self._is_metered(r)]",
    ),
    Mutant(
        15, "trusts a metered network first", "(self._is_metered(r), self._left", "(not self._is_metered(r), self._left"
    ),
    # 16: max_time_on_non_default.
    Mutant(16, "does not count the time away", "            self._count_time_away(now)\n", ""),
    Mutant(
        16,
        "holds to the user's choice all the same",
        "self._called_back, self._chosen = True, False",
        "self._called_back = True",
    ),
    Mutant(
        16,
        "pauses all the same",
        "replace(self._pauses[self.routes[0]], until=now, lossy=False)",
        "replace(self._pauses[self.routes[0]], lossy=False)",
    ),
    Mutant(
        16,
        "asks for five answers all the same",
        "replace(self._pauses[self.routes[0]], until=now, lossy=False)",
        "replace(self._pauses[self.routes[0]], until=now)",
    ),
    Mutant(
        16,
        "calls back again and again",
        "        if not self._called_back and now >= self._away_since",
        "        if now >= self._away_since",
    ),
    Mutant(
        16,
        "counts all stays together",
        "            self._away_since, self._called_back = None, False\n            return\n",
        "            return\n",
    ),
    Mutant(
        16,
        "does not say when it will call back",
        "            times.append(self._away_since + self._settings.max_time_on_non_default)\n",
        "            pass\n",
    ),
)
