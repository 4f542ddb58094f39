%% Run on a node that has just started (rabbitmqctl eval): makes it a member of every stream, waits until it has what the leaders had
%% then, and lets clients in, at Listen, if it did not yet. What comes back: complete, or what it waits for. Safe to repeat.
%%
%% Clients of a node that is not in the coordinator of streams could make a second one (RabbitMQ 3.10): so none is let in before.

Patience = erlang:monotonic_time(second) + 120,
Wait = fun Wait(Is) ->
    Is() orelse (erlang:monotonic_time(second) < Patience andalso timer:sleep(200) =:= ok andalso Wait(Is))
end,
Id = fun(Node) -> {rabbit_stream_coordinator, Node} end,
Streams = fun() -> [amqqueue:get_name(Q) || Q <- rabbit_amqqueue:list_by_type(rabbit_stream_queue)] end,

Coordinates = fun() ->
    Peers = [Id(Node) || Node <- rabbit_mnesia:cluster_nodes(running), Node =/= node()],
    case {ra:members(Peers ++ [Id(node())]), whereis(rabbit_stream_coordinator)} of
        {{ok, Members, Leader}, Own} ->
            case {lists:member(Id(node()), Members), Own} of
                {true, _} -> Own =/= undefined;
                %% The leader looks for new nodes now, and not within half a minute.
                {false, undefined} -> ra:cast_aux_command(Leader, maybe_resize_coordinator_cluster), false;
                %% It was started and not added: the leader would not try again.
                {false, _} -> ra:add_member(Members, Id(node())), false
            end;
        {_, Own} -> Own =/= undefined orelse Streams() =:= []
    end
end,

%% The leader's node, and how far each member is.
Look = fun(Name) ->
    try
        {ok, Q} = rabbit_amqqueue:lookup(Name),
        Leader = amqqueue:get_pid(Q),
        {node(Leader), maps:map(fun(_, {Offset, _}) -> Offset end, osiris_writer:query_replication_state(Leader))}
    catch _:_ -> none
    end
end,

%% A new member counts at once, and has nothing: together with one that lags it could elect a leader. So it is added when all others
%% have what the leader had a moment before: what is confirmed later they all have.
IsMember = fun IsMember(Name, Seen) ->
    case {Look(Name), Seen} of
        {none, _} -> wait;
        {{Leader, Offsets}, {Leader, IsIn, Goal}} when is_map_key(node(), Offsets) =:= IsIn ->
            Members = case IsIn of true -> [node()]; false -> maps:keys(Offsets) end,
            case lists:all(fun(Node) -> maps:get(Node, Offsets) >= Goal end, Members) of
                true when IsIn -> done;
                true -> catch rabbit_stream_queue:add_replica(element(2, Name), element(4, Name), node()), wait;
                false -> {Leader, IsIn, Goal}
            end;
        {{Leader, Offsets}, _} -> {Leader, is_map_key(node(), Offsets), maps:get(Leader, Offsets)}
    end
end,
Join = fun Join(Name, Seen) ->
    case IsMember(Name, Seen) of
        done -> true;
        Next -> erlang:monotonic_time(second) < Patience andalso timer:sleep(200) =:= ok andalso Join(Name, Next)
    end
end,

LetIn = fun() ->
    case application:get_env(rabbit, tcp_listeners) of
        {ok, []} ->
            ok = rabbit_networking:start_tcp_listener(Listen, application:get_env(rabbit, num_tcp_acceptors, 10)),
            %% Also when the application is stopped and started again: a node pauses in a minority.
            application:set_env(rabbit, tcp_listeners, [Listen]);
        _ -> ok
    end
end,

case Wait(Coordinates) of
    false -> waits_for_the_coordinator_of_streams;
    true ->
        case [Name || Name <- Streams(), not Join(Name, none)] of
            [] -> LetIn(), complete;
            [Name | _] -> {waits_for_its_member_of, element(4, Name)}
        end
end.
