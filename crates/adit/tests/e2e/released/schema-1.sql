-- A database as the first version wrote it, with schema 1.
BEGIN TRANSACTION;
CREATE TABLE meta (
    key TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL,
    digest INTEGER NOT NULL
) STRICT;
INSERT INTO "meta" VALUES('revision','12',4037668013828209387);
CREATE TABLE object (
    kind TEXT NOT NULL,
    id INTEGER NOT NULL,
    version INTEGER NOT NULL,
    body TEXT NOT NULL CHECK (json_valid(body)),
    digest INTEGER NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT;
INSERT INTO "object" VALUES('uplink',1,1,'{"advertised":null,"endpoint":"gw.example.com","gateway":1,"id":1,"name":"eth0"}',-8247660202062300093);
INSERT INTO "object" VALUES('subnet',2,2,'{"delivery":"auto","egress":null,"host_access":false,"id":2,"ipv4":"10.59.0.0/24","ipv6":"2001:db8:100:1::/64","name":"lan","peers":true}',2313480520166719392);
INSERT INTO "object" VALUES('subnet',3,3,'{"delivery":"auto","egress":null,"host_access":false,"id":3,"ipv4":"10.60.0.0/24","ipv6":"fde9:9f95:a731:3769::/64","name":"private","peers":true}',1496664558203921732);
INSERT INTO "object" VALUES('device',4,4,'{"enabled":true,"expires":null,"id":4,"ipv4":"10.59.0.2","kind":"server","name":"nas","preshared_key":"pJStTDVwV+J5HKrkkFMitA+a9/0sP1JEgKORm3ixTQg=","public_key":"VOO+C8DndTc9u3B31XCRmkvQLUI+TyhZPYPJ81YWwkE=","routing":"inbound","subnet":2}',-6933428941628526158);
INSERT INTO "object" VALUES('delegation',5,4,'{"device":4,"id":5,"prefix":"2001:db8:100:1:1::/80"}',6263819762538019926);
INSERT INTO "object" VALUES('delegation',6,4,'{"device":4,"id":6,"prefix":"192.168.77.0/24"}',-5769456844648382183);
INSERT INTO "object" VALUES('device',7,5,'{"enabled":true,"expires":3786912000,"id":7,"ipv4":"10.59.0.3","kind":"client","name":"phone","preshared_key":"Ge7vwlQMUwXGZNdqg8RHObYjqRgIi44fZQEFySuRFCg=","public_key":"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=","routing":"full","subnet":2}',-8177866799859915445);
INSERT INTO "object" VALUES('device',8,7,'{"enabled":false,"expires":null,"id":8,"ipv4":"10.60.0.2","kind":"client","name":"guest","preshared_key":"9S/vFDfui+bSQ3+qqpN05hTyQieHbxdAuT+HKbJHAs4=","public_key":"TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=","routing":"split","subnet":3}',-677445896328984546);
INSERT INTO "object" VALUES('forward',9,8,'{"address":null,"device":4,"enabled":true,"gateway":1,"id":9,"label":"web","origin":"manual","port":443,"port_end":443,"protocols":["tcp"],"target_port":8443}',6852814094554768464);
INSERT INTO "object" VALUES('forward',10,9,'{"address":null,"device":4,"enabled":true,"gateway":1,"id":10,"label":"","origin":"manual","port":5000,"port_end":5010,"protocols":["udp"],"target_port":5000}',493017833028508188);
INSERT INTO "object" VALUES('pinhole',11,10,'{"device":4,"enabled":true,"gateway":1,"id":11,"label":"","origin":"manual","port":22,"port_end":22,"protocols":["tcp"]}',5670048446300918601);
INSERT INTO "object" VALUES('token',12,11,'{"expires":null,"hash":"c5e9131370977304306a14af6f55820e09f9e46c711d222a0c09643a1f6c0aa1","id":12,"name":"ci","scopes":["read"]}',2838387281831983727);
INSERT INTO "object" VALUES('sequence',0,11,'12',75506869313634970);
INSERT INTO "object" VALUES('settings',0,12,'{"clamp-mtu":1400,"dns-servers":[],"listen-port":51820,"mtu":null,"snat-first":40000,"snat-last":65535}',-479162508536235734);
COMMIT;
PRAGMA application_id = 1097099636;
PRAGMA user_version = 1;
