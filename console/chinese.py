"""What the pages say in Chinese, by the English sentence."""

CHINESE: dict[str, str] = {
    # failures
    "The server says: {reason}": "服务器答复：{reason}",
    "Nothing is published yet. Run triptych train and triptych reindex for the home.": (
        "尚未发布任何索引。请对数据目录运行 triptych train 和 triptych reindex。"
    ),
    "The token has expired. Make another with triptych token create, and start the console with it.": (
        "令牌已过期。请用 triptych token create 新建一个，并用它启动控制台。"
    ),
    "The token was revoked. Ask for another, and start the console with it.": (
        "令牌已被撤销。请另取一个，并用它启动控制台。"
    ),
    "The server does not know the token. Start the console with one of this server.": (
        "服务器不认识这个令牌。请用该服务器的令牌启动控制台。"
    ),
    "The server wants a token. Start the console with TRIPTYCH_TOKEN or --token-file.": (
        "服务器要求令牌。请用 TRIPTYCH_TOKEN 或 --token-file 启动控制台。"
    ),
    "The token may not do this. It needs another scope.": "此令牌无权这样做，需要别的权限。",
    "There is no such item, or it is not in the index.": "没有这个物品，或它不在索引中。",
    "The model has no head for this. Train with --task.": "模型没有相应的预测头。请用 --task 训练。",
    "There is no older index to go back to.": "没有更早的索引可以退回。",
    "There is no such index.": "没有这个索引。",
    "Too few people for an audience that this server tells.": "人数太少，服务器不会告知这样的受众。",
    "This index does not hold users. Run triptych reindex.": "此索引不含用户。请运行 triptych reindex。",
    "Too many calls with this token. Wait a little.": "此令牌的调用过于频繁，请稍候。",
    "The server at {address} cannot be spoken to with these TLS options: {reason}": (
        "用这些 TLS 选项无法与 {address} 的服务器通信：{reason}"
    ),
    "No server answers at {address}. Is triptych serve running there?": (
        "{address} 没有服务器应答。那里运行着 triptych serve 吗？"
    ),
    # the frame
    "Overview": "概览",
    "Try": "试查",
    "People": "用户",
    "Items": "物品",
    "Light or dark": "随系统明暗",
    "Light": "浅色",
    "Dark": "深色",
    "Pages": "页面",
    "read-only": "只读",
    "Find": "查找",
    "Look": "查看",
    "Leave it": "取消",
    "Yes, do it": "确定执行",
    "yes": "是",
    "no": "否",
    "none": "无",
    # overview
    "Server": "服务器",
    "Serves": "正在服务",
    "Version": "版本",
    "Up for": "已运行",
    "Index": "索引",
    "Model": "模型",
    "Language model": "语言模型",
    "Items in the index": "索引中的物品",
    "Items without a vector": "没有向量的物品",
    "Embedding dim": "向量维数",
    "User vectors kept": "缓存的用户向量",
    "Queries whose vector was kept": "命中缓存向量的查询",
    "What serves is told to tokens with the scope admin.": "只有具备 admin 权限的令牌能看到服务状况。",
    "fails: {error}": "出错：{error}",
    "goes well; {count} failures since the start": "正常；启动以来失败 {count} 次",
    "What serves": "服务状况",
    "What is stored": "存储内容",
    "Background work": "后台工作",
    "behaviors": "行为",
    "consents": "同意",
    "impressions": "曝光",
    "items": "物品",
    "social": "社交关系",
    "texts": "文本",
    "users": "用户",
    "named_by": "被他人提及",
    "rejects": "被拒的行",
    "models": "模型",
    "indexes": "索引",
    "text_vectors": "文本向量",
    # try
    "Try a query": "试一次查询",
    "Stored person": "已存用户",
    "Anonymous person": "匿名用户",
    "Item": "物品",
    "Text": "文本",
    "Person, by id": "用户编号",
    "Item, by id": "物品编号",
    "Items of the history, an id a line": "历史物品，每行一个编号",
    "Texts that they wrote, one a line": "所写文本，每行一条",
    "Friends, an id a line": "好友，每行一个编号",
    "How many": "数量",
    "Weight of history": "行为的权重",
    "Weight of texts": "文本的权重",
    "Weight of friends": "好友的权重",
    "Relevance against variety (1: by score)": "相关与多样（1 为按分数）",
    "Also search for this text": "同时搜索此文本",
    "Weight of the search text": "搜索文本的权重",
    "Kinds, with commas between": "类别，用逗号分隔",
    "Conditions, one a line: year>=1999": "条件，每行一个：year>=1999",
    "Also what they have had": "也含已接触过的",
    "Say why": "说明原因",
    "Compare every item": "逐一比较全部物品",
    "Setting": "设置",
    "First setting": "设置一",
    "Second setting": "设置二",
    "Compare with a second setting": "与另一设置对比",
    "Question": "问题",
    "Results": "结果",
    "Name a person, an item or a text on the form: the answer follows at once.": (
        "请在表单中填写用户、物品或文本，结果随即显示。"
    ),
    "history": "行为",
    "text": "文本",
    "friends": "好友",
    "search text": "搜索文本",
    "popularity": "热度",
    "why": "原因",
    "Views used: {views}. {count} results in {ms} ms.": "所用视图：{views}。{count} 个结果，用时 {ms} 毫秒。",
    "Nothing is known of this subject, so these are the most popular items.": (
        "对此对象一无所知，以下为最热门的物品。"
    ),
    "No results: nothing passes the filter.": "没有结果：没有物品符合条件。",
    # the last hour, the map, filters
    (
        "This index reads texts by another language model than the one that serves. Publish it to see "
        "its answers."
    ): "此索引所用的语言模型与正在服务的不同。请发布它以查看其结果。",
    "This server counts nothing. Start it without --no-figures.": (
        "此服务器不做统计。请不带 --no-figures 启动。"
    ),
    "The server has too much to do. Try again in a moment.": "服务器过于繁忙，请稍后再试。",
    "Map": "地图",
    "Alerts": "告警",
    "The last hour": "最近一小时",
    "Processes": "进程",
    "calls": "调用",
    "failed or refused": "失败或被拒",
    "Calls a minute": "每分钟调用",
    "Latency of Query": "Query 的延迟",
    "Method": "方法",
    "Calls": "调用",
    "Failed": "失败",
    "Counted since {time} UTC.": "自 {time} UTC 起统计。",
    "Process": "进程",
    "Role": "角色",
    "Memory": "内存",
    "Age of the index": "索引的年龄",
    "Worker": "任务",
    "Waiting": "等待",
    "For": "已等",
    "State": "状态",
    "All is well: none of {count} conditions holds.": "一切正常：{count} 个告警条件均不成立。",
    "critical": "严重",
    "warning": "警告",
    "for {minutes} min": "已 {minutes} 分钟",
    "{index} (serves)": "{index}（正在服务）",
    "Index {index}.": "索引 {index}。",
    "Filter": "筛选",
    "Counted in {count} of the items.": "在其中 {count} 个物品中统计。",
    "{name} from ({end})": "{name} 自（{end}）",
    "{name} to ({end})": "{name} 至（{end}）",
    "Map of the items": "物品地图",
    "The map is told to tokens with the scope admin.": "只有具备 admin 权限的令牌能看到地图。",
    "Show": "显示",
    "Coloured by": "着色依据",
    "Nothing is known of {user}: the vector is zero.": "对 {user} 一无所知：向量为零。",
    "Drag to move, turn the wheel or press + and − to zoom, 0 shows all. A click opens the item.": (
        "拖动以移动，滚轮或 + 与 − 缩放，0 显示全部。点击打开物品。"
    ),
    "Items as points; the page Try lists them": "以点表示的物品；“试查”页以列表显示",
    "Loading …": "加载中……",
    (
        "The thick arrow is where the person's vector points, the thin ones are its parts, which add up "
        "to it. {share} of the vector lies in this plane."
    ): "粗箭头是此用户向量的方向，细箭头是它的各部分，相加即为该向量。该向量的 {share} 在此平面内。",
    "others": "其他",
    "the person": "此用户",
    "The axes hold {first} and {second} of the variance.": "两轴分别包含 {first} 与 {second} 的方差。",
    "A sample of {points} of {items} items.": "{items} 个物品中的 {points} 个样本。",
    "{items} items.": "{items} 个物品。",
    "Previous page": "上一页",
    "Rows {first} to {last}": "第 {first} 至 {last} 行",
    "On the map": "在地图上",
    "TriptychNotServing": "没有可用的索引",
    "TriptychErrors": "调用失败过多",
    "TriptychSlowQueries": "查询变慢",
    "TriptychRefusesCalls": "因拥满而拒绝调用",
    "TriptychDeniesCalls": "大量调用被令牌检查拒绝",
    "TriptychRoomNearlyFull": "调用容量将满",
    "TriptychWriterFails": "无法写入",
    "TriptychWorkerFails": "后台任务失败",
    "TriptychLagsBehind": "后台任务落后",
    "TriptychProcessBehindTheLog": "查询进程落后于变更日志",
    "TriptychProcessesDisagree": "各进程使用不同的索引",
    "TriptychProcessesRestart": "进程反复退出",
    "TriptychOldIndex": "索引过旧",
    "TriptychPopularityFallback": "多数查询只得到热门物品",
    "TriptychDrift": "提问者与训练时不同",
    "TriptychMemoryGrows": "内存持续增长",
    (
        "Nothing is published, or it could not be loaded; the log says which. Look with triptych index "
        "list, go back with triptych index rollback."
    ): (
        "尚未发布索引，或无法加载；日志说明原因。用 triptych index list 查看，用 triptych index "
        "rollback 退回。"
    ),
    (
        "UNAVAILABLE: a process is being replaced. DEADLINE_EXCEEDED: it is too slow. INTERNAL: the "
        "log has the error under the query id that the caller got. DATA_LOSS: a file is damaged; it "
        "says which."
    ): (
        "UNAVAILABLE：正在更换进程。DEADLINE_EXCEEDED：过慢。INTERNAL：日志中以调用方所得的查询编号记录"
        "了错误。DATA_LOSS：文件损坏，消息中有其名称。"
    ),
    (
        "Many items changed since the index was built: triptych reindex. Few vectors of people are "
        "kept: --user-cache-mb. Queries wait for a thread: --processes, or replicas."
    ): (
        "索引建成后有大量物品变更：triptych reindex。缓存的用户向量太少：--user-cache-mb。查询在等线程"
        "：--processes，或增加副本。"
    ),
    (
        "More calls of this kind come than are answered. Add processes (--processes); more workers "
        "(--workers) help kinds that wait for the disk."
    ): ("此类调用多于所能应答的。请增加进程（--processes）；对等待磁盘的调用，增加线程（--workers）有用。"),
    (
        "Callers come without a token, with one of another scope, or above its rate. One app with an "
        "expired token is enough."
    ): "调用方没有令牌，或令牌权限不符，或超过其速率。一个令牌过期的应用就足以如此。",
    "The log says why, most often a full disk. Writes go on by themselves once it is mended.": (
        "日志说明原因，多半是磁盘已满。修复后写入会自行继续。"
    ),
    "The log says why. Queries go on with what was there before.": "日志说明原因。查询照旧使用之前的内容。",
    "More is written than can be encoded. Import large amounts with triptych import, and reindex.": (
        "写入多于所能编码的。大量数据请用 triptych import 导入，再重建索引。"
    ),
    (
        "A query process does not follow. It ends by itself where it cannot read the log; kill it, and "
        "another one takes its place."
    ): "有一个查询进程没有跟上。若读不了日志，它会自行退出；请结束它，另一个会接替。",
    (
        "The log has the exit code and the reason of each. Code -9 without a reason: the machine has "
        "too little memory; take fewer processes, or a smaller --user-cache-mb."
    ): ("日志中有各自的退出码和原因。没有原因的 -9：机器内存不足；请减少进程，或减小 --user-cache-mb。"),
    "Was the nightly triptych train and triptych reindex run?": (
        "每夜的 triptych train 和 triptych reindex 运行了吗？"
    ),
    "Most people who ask are unknown. Does the app send the ids that were imported?": (
        "多数提问者是未知的。应用所发的编号与导入的一致吗？"
    ),
    "Train anew on a fresh export: triptych train --from LATEST.": (
        "用新的导出重新训练：triptych train --from LATEST。"
    ),
    "Items that changed since the last reindex lie in memory: triptych reindex.": (
        "上次重建索引以来变更的物品都在内存中：triptych reindex。"
    ),
    # people
    "Name a person by id.": "请填写用户编号。",
    "Nothing is stored of {user}.": "没有存储 {user} 的任何内容。",
    "Their results": "此人的结果",
    "People like them": "相似的用户",
    "Interest profile": "兴趣概况",
    "category": "类别",
    "probability": "概率",
    "Save as a file": "存为文件",
    "Consent": "同意",
    "Use for their own results: {view}": "用于本人的结果：{view}",
    "Let others' results show it: {view}": "可显示在他人的结果中：{view}",
    "Written. The next query follows it.": "已写入，下次查询即生效。",
    "Erase": "删除",
    "Erase this person": "删除此用户",
    "Erase all that is stored of {user}? This cannot be undone.": (
        "删除 {user} 的全部存储内容？此操作无法撤销。"
    ),
    "Erased: {gone}. Models trained on them: {models}.": "已删除：{gone}。用其训练过的模型：{models}。",
    # indexes
    "Indexes": "索引",
    "Indexes and models": "索引与模型",
    "There is no index yet. Run triptych train and triptych reindex for the home.": (
        "还没有索引。请对数据目录运行 triptych train 和 triptych reindex。"
    ),
    "damaged": "已损坏",
    "Factory": "类型",
    "Changes": "变更",
    "ANN recall": "近似召回率",
    "Size": "大小",
    "Where": "位置",
    "server": "服务器",
    "bucket": "存储桶",
    "server and bucket": "服务器和存储桶",
    "The bucket cannot be reached: these are on the disk of the server.": (
        "无法访问存储桶：以下是服务器磁盘上的索引。"
    ),
    "There is no other index to publish.": "没有其他可发布的索引。",
    "Index to publish": "要发布的索引",
    "Publish this index?": "发布此索引？",
    "Publish": "发布",
    "Roll back": "退回",
    "Go back to the index before?": "退回到之前的索引？",
    # items
    "Items are told to tokens with the scope query.": "只有具备 query 权限的令牌能查看物品。",
    "No item is found.": "没有找到物品。",
    "There is no item {item}.": "没有物品 {item}。",
    "The item is replaced whole; a vector that was brought with it is lost.": (
        "物品会被整个替换；随它带来的向量会丢失。"
    ),
    "Delete this item? It is emptied and found by nobody.": "删除此物品？它会被清空，谁也找不到。",
    "Id or title contains": "编号或标题包含",
    "Kind": "类别",
    "Id": "编号",
    "Title": "标题",
    "Available": "可用",
    "Written": "写入时间",
    "Items like it": "相似的物品",
    "Its audience": "受众",
    "Put": "写入",
    "Put a new item": "写入新物品",
    "Next page": "下一页",
    "Attributes, a JSON object": "属性（JSON 对象）",
    "Change it": "修改",
    "A new item": "新物品",
    "Delete": "删除",
    # models
    "Models": "模型",
    "There is no model yet. Run triptych train for the home.": (
        "还没有模型。请对数据目录运行 triptych train。"
    ),
    "There is no such model: {models}.": "没有这样的模型：{models}。",
    "The first {count} are shown beside each other.": "只并排显示前 {count} 个。",
    "Date": "日期",
    "recall@20 when trained": "训练时的 recall@20",
    "Compare the ticked ones": "比较勾选的模型",
    "What they are": "基本情况",
    "differs": "不同",
    "Training kept no figures of {models}: too little was held out, or an earlier version made it.": (
        "训练没有留下 {models} 的指标：留出的数据太少，或由更早的版本训练。"
    ),
    "They were not measured on the same rows, so a difference may come from that.": (
        "它们不是在相同的数据行上测得的，差异可能由此而来。"
    ),
    "Heads, measured on valid": "预测头（在 valid 上测得）",
    "Settings": "设置",
    "They are the same.": "全部相同。",
    "{count} that are the same": "相同的 {count} 项",
    "Trained on from": "接续训练自",
    "Export": "导出",
    "Seconds of training": "训练秒数",
    "Measured on": "测量所用",
    "a tenth of train": "训练数据的十分之一",
    "{rows}, {count} people": "{rows}，{count} 名用户",
    "Recall@20 on the rows that training held out, with the 95 % interval over people.": (
        "在训练留出的数据行上的 Recall@20，及其在用户上的 95% 区间。"
    ),
    "By view, when trained": "训练时各视图的效果",
    # evaluation
    "Evaluation": "评估",
    "Reports are told to tokens with the scope admin.": "只有具备 admin 权限的令牌能看到评估报告。",
    "There is no report yet. Run triptych evaluate for the home: it keeps what it measures there.": (
        "还没有报告。请对数据目录运行 triptych evaluate，结果会保存在那里。"
    ),
    "There is no such report. The list has those that the home keeps.": (
        "没有这份报告。列表中是数据目录保存的报告。"
    ),
    "Report": "报告",
    "Beside it": "与之对比",
    "Each interval is of one report alone: it does not tell whether a difference is chance.": (
        "每个区间只属于一份报告，不能说明差异是否出于偶然。"
    ),
    "Split": "数据划分",
    "Beside others": "对比对象",
    "Home": "数据目录",
    "Views used": "所用视图",
    "Agreement of a view with the whole": "各视图与整体的一致程度",
    "Seconds": "秒数",
    "These reports are not of the same rows and people, so a difference may come from that.": (
        "两份报告的数据行或用户不同，差异可能由此而来。"
    ),
    # charts
    "The same as a table": "以表格显示",
    "Recall beside others": "与其他方法相比的召回率",
    "Recall@20 over all items, with the 95 % interval over people.": (
        "对全部物品排序的 Recall@20，及其在用户上的 95% 区间。"
    ),
    "Left out: {what}.": "未包括：{what}。",
    "people whom training never saw": "训练中未出现的用户",
    "By view": "按视图",
    "history withheld": "不给行为",
    "Recall@20 where people are ranked by some of their views alone.": (
        "只用部分视图为用户排序时的 Recall@20。"
    ),
    "attributes": "属性",
    "vector": "向量",
    "chance": "随机",
    "Recall@20 of items that training never saw, by what is known of them; people with such a "
    "target: {count}.": "训练中未出现的物品的 Recall@20，按已知信息区分；有此类目标的用户：{count}。",
    "New items": "新物品",
    "gain over it, paired 95 %": "相对它的增益（成对 95%）",
    "{b} less {a}": "{b} 减 {a}",
    "By history length": "按行为数量",
    "By number of texts": "按文本数量",
    "By number of friends": "按好友数量",
    "items left of the history": "保留的历史物品数",
    "texts left": "保留的文本数",
    "friends left": "保留的好友数",
    "One view is cut to so many elements, drawn at random, as in a person's first days; the others "
    "are whole. Bands: 95 %, over {count} people.": (
        "一个视图只随机保留这么多元素，如同用户最初的日子；其余视图完整。色带：95% 区间，{count} 名用户。"
    ),
    "all": "全部",
    "removed": "移除",
    "noise": "噪声",
    "share of it that is changed, %": "被改动的比例（%）",
    "Robustness": "稳健性",
    "A share of one view is removed, or replaced by what is not theirs; the others are whole. "
    "Bands: 95 %.": "一个视图的一部分被移除，或换成他人的内容；其余视图完整。色带：95% 区间。",
    "Calibration": "校准",
    "Tenths of the examples by prediction; on the dotted line what is predicted is what happens.": (
        "按预测值分成十组；虚线上预测与实际相等。"
    ),
    "tenths": "十分组",
    "clicks": "点击",
    "categories": "类别",
    "predicted": "预测",
}
